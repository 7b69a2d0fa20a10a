//! Bodies of submit frames and of their coalesced answers: statuses and receipts.

use hufu_types::codec::{DecodeError, Reader, check_range, check_reserved, index, length_u32, put};
use hufu_types::{Receipt, RefusalCode, Strength};
use zerocopy::little_endian::{U16, U32, U64};

use super::{WaitFor, layout, range, read_flag, read_strength};
use crate::limits::{RECEIPT_PROOF_SIZE_MAX, SUBMIT_TRANSACTIONS_COUNT_MAX};

layout!(
    /// Fixed first part of a submit body; then per transaction its size (u32) and its bytes.
    pub(crate) struct SubmitHeader {
        wait: u8,
        with_proof: u8,
        reserved: [u8; 2],
        count: U32,
    }
);

impl SubmitHeader {
    pub(crate) const fn new(wait: WaitFor, with_proof: bool, count: u32) -> Self {
        let wait = wait as u8;
        Self { wait, with_proof: with_proof as u8, reserved: [0; 2], count: U32::new(count) }
    }
}

/// Transactions handed in together, read in place. Whether each is canonical is judged one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubmitView<'a> {
    bytes: &'a [u8],
    wait: WaitFor,
    with_proof: bool,
    count: u32,
}

impl<'a> SubmitView<'a> {
    /// Reads exactly one body; the counts and lengths must fit it.
    ///
    /// # Errors
    /// What is not canonical.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header: &SubmitHeader = reader.fixed()?;
        check_reserved("submit", &header.reserved)?;
        let wait =
            WaitFor::from_number(header.wait).ok_or(range("submit wait", header.wait, 0, 2))?;
        let with_proof = read_flag("submit with proof", header.with_proof)?;
        if with_proof && wait == WaitFor::Nothing {
            return Err(DecodeError::NotCanonical { field: "submit with proof, without wait" });
        }
        let count = header.count.get();
        check_range("submit count", count.into(), 1, SUBMIT_TRANSACTIONS_COUNT_MAX.into())?;
        for _ in 0..count {
            let size = reader.fixed::<U32>()?.get();
            reader.bytes(index(size))?;
        }
        reader.finish()?;
        Ok(Self { bytes, wait, with_proof, count })
    }

    /// The count that a body states, if a body may state it. Nothing else of it is read.
    #[must_use]
    pub fn stated_count(bytes: &[u8]) -> Option<u32> {
        let header: &SubmitHeader = Reader::new(bytes).fixed().ok()?;
        let count = header.count.get();
        (1..=SUBMIT_TRANSACTIONS_COUNT_MAX).contains(&count).then_some(count)
    }

    /// The whole body.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What the client waits for.
    #[must_use]
    pub const fn wait(&self) -> WaitFor {
        self.wait
    }

    /// Whether receipts come with their proofs.
    #[must_use]
    pub const fn with_proof(&self) -> bool {
        self.with_proof
    }

    /// How many transactions, at least 1.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The bytes of each transaction in order.
    pub fn transactions(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        // `parse` has walked the same lengths, so none is lost to an error here.
        let mut is_good = reader.fixed::<SubmitHeader>().is_ok();
        core::iter::from_fn(move || {
            if !is_good || reader.remaining() == 0 {
                return None;
            }
            let size = reader.fixed::<U32>().map(|size| index(size.get()));
            let bytes = size.and_then(|size| reader.bytes(size));
            is_good = bytes.is_ok();
            bytes.ok()
        })
    }
}

layout!(
    /// What became of one transaction of a submit frame, or of a wait. A refusal is the last word
    /// on it, also when it follows an acceptance.
    pub struct StatusEntry {
        request: U64,
        position: U32,
        code: U16,
        reserved: [u8; 2],
    }
);

impl StatusEntry {
    /// The status of the transaction at `position` of the frame `request`; `None` says that it was
    /// taken.
    #[must_use]
    pub fn new(request: u64, position: u32, refusal: Option<RefusalCode>) -> Self {
        Self {
            request: U64::new(request),
            position: U32::new(position),
            code: U16::new(refusal.map_or(0, RefusalCode::number)),
            reserved: [0; 2],
        }
    }

    /// The request of the submit or wait frame.
    #[must_use]
    pub const fn request(&self) -> u64 {
        self.request.get()
    }

    /// Place in the submit frame, from 0; 0 for a wait.
    #[must_use]
    pub const fn position(&self) -> u32 {
        self.position.get()
    }

    /// Why it was refused; `None` says that it was taken.
    #[must_use]
    pub fn refusal(&self) -> Option<RefusalCode> {
        RefusalCode::from_number(self.code.get())
    }
}

pub(super) fn check_statuses(body: &[u8]) -> Result<&[StatusEntry], DecodeError> {
    let mut reader = Reader::new(body);
    let entries: &[StatusEntry] = reader.slice(body.len() / size_of::<StatusEntry>())?;
    reader.finish()?;
    for entry in entries {
        check_reserved("status", &entry.reserved)?;
        let code = entry.code.get();
        if code != 0 && RefusalCode::from_number(code).is_none() {
            let max = RefusalCode::ALL.last().map_or(0, |code| code.number());
            let (found, max) = (code.into(), max.into());
            return Err(DecodeError::Range { field: "refusal code", found, min: 0, max });
        }
    }
    Ok(entries)
}

layout!(
    struct ReceiptEntryHeader {
        request: U64,
        position: U32,
        strength: u8,
        reserved: [u8; 3],
        proof_size: U32,
    }
);

/// Bytes of one receipt entry without its proof.
pub(crate) const RECEIPT_ENTRY_SIZE: usize = size_of::<ReceiptEntryHeader>() + size_of::<Receipt>();

/// One receipt, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptEntry<'a> {
    /// The request of the submit or wait frame.
    pub request: u64,
    /// Place in the submit frame, from 0; 0 for a wait.
    pub position: u32,
    /// How strong the receipt is.
    pub strength: Strength,
    /// The receipt.
    pub receipt: &'a Receipt,
    /// Canonical bytes of a [`hufu_types::ReceiptProof`]; empty when none was asked for.
    pub proof: &'a [u8],
}

impl<'a> ReceiptEntry<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let header: &ReceiptEntryHeader = reader.fixed()?;
        check_reserved("receipt entry", &header.reserved)?;
        let proof_size = header.proof_size.get();
        check_range("receipt proof size", proof_size.into(), 0, RECEIPT_PROOF_SIZE_MAX.into())?;
        let receipt: &Receipt = reader.fixed()?;
        receipt.check()?;
        Ok(Self {
            request: header.request.get(),
            position: header.position.get(),
            strength: read_strength(header.strength)?,
            receipt,
            proof: reader.bytes(index(proof_size))?,
        })
    }

    /// Appends the entry to the body of a receipts frame.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let header = ReceiptEntryHeader {
            request: U64::new(self.request),
            position: U32::new(self.position),
            strength: self.strength as u8,
            reserved: [0; 3],
            proof_size: U32::new(length_u32(self.proof)),
        };
        put(out, &header);
        put(out, self.receipt);
        put(out, self.proof);
    }
}

/// The body of a receipts frame, checked and read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptsView<'a> {
    bytes: &'a [u8],
}

impl<'a> ReceiptsView<'a> {
    /// Reads exactly one body.
    ///
    /// # Errors
    /// What is not canonical.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        ReceiptEntry::read(&mut reader)?;
        while reader.remaining() > 0 {
            ReceiptEntry::read(&mut reader)?;
        }
        Ok(Self { bytes })
    }

    /// The whole body.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The receipts in order.
    pub fn entries(&self) -> impl Iterator<Item = ReceiptEntry<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        // `parse` has read them all, so none is lost to an error here.
        core::iter::from_fn(move || ReceiptEntry::read(&mut reader).ok())
    }
}
