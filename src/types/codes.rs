//! Typed reasons: why a transaction is refused before inclusion, and how it fails when included
//! (design.md 3).
//!
//! Numbers go over the wire, into receipts and metrics; they are never reused.

/// Makes an enumeration of codes with numbers for the wire and names for people: one home for the
/// reading, writing and listing that all of them share.
///
/// ```
/// hufu_types::codes!(
///     /// What a lamp shows.
///     Lamp {
///         /// Go.
///         Green = 1, "green";
///         /// Stop.
///         Red = 4, "red";
///     }
/// );
/// assert_eq!(Lamp::from_number(4), Some(Lamp::Red));
/// assert_eq!((Lamp::Red.text(), Lamp::Red.place()), ("red", 1));
/// assert_eq!(Lamp::from_number(2), None);
/// ```
#[macro_export]
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $number:literal, $text:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $number,)*
        }

        impl $name {
            /// All codes, for metrics and documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code's number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The code with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The code's name in metrics, JSON and messages.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// The code's place in `ALL`, for tables of counters.
            #[must_use]
            pub fn place(self) -> usize {
                Self::ALL.iter().position(|code| *code == self).unwrap_or(0)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                formatter.write_str(self.text())
            }
        }
    };
}

codes!(
    /// Refused before inclusion: nothing of it is recorded, the sender may mend it and try again.
    RefusalCode {
        /// The bytes are not a canonical transaction.
        Malformed = 1, "malformed";
        /// Larger than the limit, or naming more state keys than one transaction may.
        Oversized = 2, "oversized";
        /// Made for another chain.
        WrongChain = 3, "wrong_chain";
        /// A signature suite this chain does not use.
        SuiteUnknown = 4, "suite_unknown";
        /// Its last valid height has passed.
        Expired = 5, "expired";
        /// Its last valid height lies further ahead than allowed.
        ValidityTooLong = 6, "validity_too_long";
        /// Already taken, or its sender has used this nonce inside the validity window.
        Duplicate = 7, "duplicate";
        /// The sender's public key is not a point of the curve.
        KeyInvalid = 8, "key_invalid";
        /// The signature does not verify.
        SignatureInvalid = 9, "signature_invalid";
        /// The node has no room for it now; try again later.
        Overloaded = 10, "overloaded";
        /// The node is stopping; try another one.
        Stopping = 11, "stopping";
    }
);

codes!(
    /// Included with a failure: the nonce is spent, the state is otherwise unchanged. 0 on the wire
    /// is success.
    FailureCode {
        /// No account has this address.
        AccountUnknown = 1, "account_unknown";
        /// The account exists already.
        AccountExists = 2, "account_exists";
        /// The account is closed, or that of the sender who acts for another or for an asset is.
        AccountClosed = 3, "account_closed";
        /// The account still holds assets.
        AccountNotEmpty = 4, "account_not_empty";
        /// No asset has this code.
        AssetUnknown = 5, "asset_unknown";
        /// The asset exists already.
        AssetExists = 6, "asset_exists";
        /// More would be in circulation than the asset's cap allows.
        SupplyCapExceeded = 7, "supply_cap_exceeded";
        /// The debited account holds less.
        BalanceInsufficient = 8, "balance_insufficient";
        /// The asset's authority has frozen this holding.
        HoldingFrozen = 9, "holding_frozen";
        /// The holding is not frozen.
        HoldingNotFrozen = 10, "holding_not_frozen";
        /// The genesis or the asset gives this right to somebody else.
        AuthorityMissing = 11, "authority_missing";
        /// Neither the owner's signature nor a mandate of the owner's.
        MandateMissing = 12, "mandate_missing";
        /// The mandate's limit is lower than what it is used for.
        MandateExceeded = 13, "mandate_exceeded";
        /// The mandate's last height has passed.
        MandateExpired = 14, "mandate_expired";
        /// A sum does not fit 128 bits.
        AmountOverflow = 15, "amount_overflow";
        /// The sender has used this nonce inside the validity window; the state is wholly
        /// unchanged.
        NonceUsed = 16, "nonce_used";
        /// Ordered after its last valid height; the state is wholly unchanged.
        Expired = 17, "expired";
        /// The account has granted as many mandates as one account may.
        MandatesTooMany = 18, "mandates_too_many";
    }
);
