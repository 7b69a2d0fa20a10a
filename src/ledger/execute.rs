//! The rules: what each operation does, and the order in which its conditions are checked.
//!
//! The first check that fails gives the failure code of the transaction; the order is protocol.
//!
//! ```text
//! operation  checks, in order
//! open       right, then AccountExists or AccountClosed
//! close      right, account, AccountNotEmpty
//! create     right, AssetExists
//! issue      asset, authority, account, AmountOverflow, SupplyCapExceeded
//! redeem     asset, account, agent, mandate, frozen, BalanceInsufficient
//! transfer   a settlement of one leg
//! settle     of each leg: asset, from account, to account; then agent; then of each leg: mandate,
//!            frozen; then all credits: AmountOverflow; then all debits: BalanceInsufficient
//! grant      asset, sender's account, MandateExpired, MandatesTooMany
//! revoke     MandateMissing
//! freeze     asset, authority, account, HoldingFrozen
//! unfreeze   asset, authority, account, HoldingNotFrozen
//! notarise   none, it always succeeds
//!
//! right      the genesis names the sender opener (close: or it is the owner) or issuer, else
//!            AuthorityMissing
//! asset      AssetUnknown
//! authority  the sender is the asset's, else AuthorityMissing; and has not closed its account,
//!            else AccountClosed
//! agent      nothing if the sender debits only itself, else AccountClosed if its account is
//! account    AccountUnknown, AccountClosed
//! mandate    nothing if the sender is the account, else MandateMissing, MandateExpired,
//!            MandateExceeded
//! frozen     HoldingFrozen
//! ```
//! - What is debited is taken off the mandate in full, also when other legs credit the account. A
//!   mandate used up leaves the state.
//! - Before the operations: a transaction outside its window (last height passed, or more than 600
//!   heights ahead, which only a Byzantine validator can order) is Expired, then NonceUsed. Both
//!   leave the state wholly unchanged; refusing the far ones keeps the nonces in the state bounded.
//!   Any other failure spends the nonce and changes nothing else.
//! - Who only acts as opener, issuer, authority, agent or notary needs no account. Who grants a
//!   mandate, and whoever is debited or credited, needs an open one. Revoking needs none, so that
//!   a closed account's mandates can be cleared.
//! - Whose account was closed acts for nobody any more, neither as agent nor as authority. The
//!   rights of openers and issuers are the genesis's and do not end with an account: no opener can
//!   take them from another.
//! - An account counts its mandates, expired ones too; one that is revoked or used up makes room.
//! - A frozen holding cannot be debited, credits reach it; it counts as a holding even when empty.

use hufu_types::codec::index;
use hufu_types::limits::ACCOUNT_MANDATES_COUNT_MAX;
use hufu_types::operation::{
    AccountBody, CreateAssetBody, GrantMandateBody, HoldingBody, RevokeMandateBody, SupplyBody,
};
use hufu_types::receipt::{Failure, Outcome};
use hufu_types::verification::check_validity;
use hufu_types::{Address, AssetCode, FailureCode, Leg, Operation, TransactionView};

use crate::corrupt::Corrupt;
use crate::declare::needs_mandate;
use crate::key::StateKey;
use crate::plan::{GroupsOutcome, Loaded, Plan, SHARED};
use crate::value::{Account, Asset, Holding, Mandate, Nonce, StateValue};

/// Why an operation stops.
enum Stop {
    Failed(FailureCode),
    Corrupt(Corrupt),
}

impl From<FailureCode> for Stop {
    fn from(code: FailureCode) -> Self {
        Self::Failed(code)
    }
}

impl From<Corrupt> for Stop {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt)
    }
}

type Step = Result<(), Stop>;

/// Takes back the slots of a transaction in the order in which they were declared.
struct Cursor<'a> {
    plan: &'a Plan,
    slots: core::slice::Iter<'a, u32>,
}

impl Cursor<'_> {
    fn next(&mut self, key: StateKey) -> u32 {
        let Some(&slot) = self.slots.next() else { unreachable!("{key} was not declared") };
        assert_eq!(self.plan.key(slot), key, "rules touch keys in the order of declaration");
        slot
    }
}

/// The slots of an account and one of its holdings.
#[derive(Clone, Copy)]
struct HoldingSlots {
    account: u32,
    holding: u32,
}

/// The slots of one leg.
#[derive(Clone, Copy)]
struct LegSlots {
    asset: u32,
    from: HoldingSlots,
    to: HoldingSlots,
    mandate: Option<u32>,
}

/// Executes groups one after the other, with memory that is kept from group to group.
pub(crate) struct Run<'a> {
    plan: &'a Plan,
    loaded: &'a Loaded,
    group: u32,
    /// The group's values, by the local number of their slot.
    values: Vec<Option<StateValue>>,
    /// Local number and value before each write of the transaction, oldest first.
    undo: Vec<(u32, Option<StateValue>)>,
    legs: Vec<LegSlots>,
    result: GroupsOutcome,
}

impl<'a> Run<'a> {
    pub(crate) fn new(plan: &'a Plan, loaded: &'a Loaded) -> Self {
        Self {
            plan,
            loaded,
            group: SHARED,
            values: Vec::new(),
            undo: Vec::new(),
            legs: Vec::new(),
            result: GroupsOutcome::default(),
        }
    }

    pub(crate) fn execute(mut self, groups: &[u32]) -> Result<GroupsOutcome, Corrupt> {
        for &group in groups {
            let (plan, loaded) = (self.plan, self.loaded);
            let slots = plan.group_slots(group);
            self.group = group;
            self.values.clear();
            self.values.extend(slots.iter().map(|&slot| plan.initial(loaded, slot)));
            for &at in plan.group_transactions(group) {
                let outcome = self.transaction(at)?;
                self.result.outcomes.push((at, outcome));
            }
            for (&slot, value) in slots.iter().zip(&self.values) {
                assert!(value.is_none_or(|value| value.belongs_to(&plan.key(slot))), "right kind");
                if *value != loaded.stored[index(slot)] {
                    self.result.writes.push((slot, *value));
                }
            }
        }
        Ok(self.result)
    }

    fn transaction(&mut self, at: u32) -> Result<Outcome, Corrupt> {
        assert!(self.undo.is_empty(), "no transaction leaves anything to undo behind");
        let (plan, view, sender) = (self.plan, self.plan.transaction(at), self.plan.sender(at));
        let header = view.header();
        let (height, valid_until) = (plan.context().height, header.valid_until.get());
        let mut cursor = Cursor { plan, slots: plan.slots_of(at).iter() };
        let nonce = cursor.next(StateKey::Nonce { sender, nonce: header.nonce.get() });
        if check_validity(valid_until, height).is_some() {
            return Ok(Err(Failure { code: FailureCode::Expired, operation: None }));
        }
        if self.value(nonce).is_some() {
            return Ok(Err(Failure { code: FailureCode::NonceUsed, operation: None }));
        }
        let outcome = self.operations(&view, sender, &mut cursor)?;
        if outcome.is_err() {
            while let Some((local, value)) = self.undo.pop() {
                self.values[index(local)] = value;
            }
        } else {
            assert!(cursor.slots.next().is_none(), "rules touch every key that was declared");
        }
        self.set(nonce, Some(StateValue::Nonce(Nonce { valid_until, used_at: height })));
        self.undo.clear();
        Ok(outcome)
    }

    fn operations(
        &mut self,
        view: &TransactionView<'_>,
        sender: Address,
        cursor: &mut Cursor<'_>,
    ) -> Result<Outcome, Corrupt> {
        for (place, operation) in (0_u16..).zip(view.operations()) {
            match self.operation(sender, &operation, cursor) {
                Ok(()) => {}
                Err(Stop::Failed(code)) => {
                    return Ok(Err(Failure { code, operation: Some(place) }));
                }
                Err(Stop::Corrupt(corrupt)) => return Err(corrupt),
            }
        }
        Ok(Ok(()))
    }

    fn operation(
        &mut self,
        sender: Address,
        operation: &Operation<'_>,
        cursor: &mut Cursor<'_>,
    ) -> Step {
        match *operation {
            Operation::OpenAccount(body) => self.open_account(sender, body, cursor),
            Operation::CloseAccount(body) => self.close_account(sender, body, cursor),
            Operation::CreateAsset(body) => self.create_asset(sender, body, cursor),
            Operation::IssueAsset(body) => self.issue(sender, body, cursor),
            Operation::RedeemAsset(body) => self.redeem(sender, body, cursor),
            Operation::Transfer(leg) => self.settle(sender, core::slice::from_ref(leg), cursor),
            Operation::Settle(legs) => self.settle(sender, legs, cursor),
            Operation::GrantMandate(body) => self.grant(sender, body, cursor),
            Operation::RevokeMandate(body) => self.revoke(sender, body, cursor),
            Operation::Notarise { .. } => Ok(()),
            Operation::FreezeHolding(body) => self.freeze(sender, body, cursor),
            Operation::UnfreezeHolding(body) => self.unfreeze(sender, body, cursor),
        }
    }

    fn open_account(
        &mut self,
        sender: Address,
        body: &AccountBody,
        cursor: &mut Cursor<'_>,
    ) -> Step {
        let slot = cursor.next(StateKey::Account(body.address));
        if !self.plan.context().rights.opens_accounts(&sender) {
            return Err(FailureCode::AuthorityMissing.into());
        }
        match self.account(slot) {
            None => {}
            Some(Account { closed_at: None, .. }) => return Err(FailureCode::AccountExists.into()),
            Some(_) => return Err(FailureCode::AccountClosed.into()),
        }
        let opened_at = self.plan.context().height;
        let account = Account { opened_at, closed_at: None, holdings_count: 0, mandates_count: 0 };
        self.set(slot, Some(StateValue::Account(account)));
        Ok(())
    }

    fn close_account(
        &mut self,
        sender: Address,
        body: &AccountBody,
        cursor: &mut Cursor<'_>,
    ) -> Step {
        let slot = cursor.next(StateKey::Account(body.address));
        let opener = self.plan.context().rights.opens_accounts(&sender);
        if !opener && sender != body.address {
            return Err(FailureCode::AuthorityMissing.into());
        }
        let mut account = self.open(slot)?;
        if account.holdings_count > 0 {
            return Err(FailureCode::AccountNotEmpty.into());
        }
        account.closed_at = Some(self.plan.context().height);
        self.set(slot, Some(StateValue::Account(account)));
        Ok(())
    }

    fn create_asset(
        &mut self,
        sender: Address,
        body: &CreateAssetBody,
        cursor: &mut Cursor<'_>,
    ) -> Step {
        let slot = cursor.next(StateKey::Asset(body.asset));
        if !self.plan.context().rights.creates_assets(&sender) {
            return Err(FailureCode::AuthorityMissing.into());
        }
        if self.value(slot).is_some() {
            return Err(FailureCode::AssetExists.into());
        }
        let asset = Asset {
            authority: body.authority,
            decimals: body.decimals,
            created_at: self.plan.context().height,
            supply_cap: body.supply_cap.get(),
            supply: 0,
        };
        assert!(asset.supply_cap > 0, "decoding refuses a cap of nothing");
        self.set(slot, Some(StateValue::Asset(asset)));
        Ok(())
    }

    fn issue(&mut self, sender: Address, body: &SupplyBody, cursor: &mut Cursor<'_>) -> Step {
        let slot = cursor.next(StateKey::Asset(body.asset));
        let actor = cursor.next(StateKey::Account(sender));
        let to = next_holding(cursor, body.account, body.asset);
        let mut asset = self.asset(slot)?;
        self.governs(sender, &asset, actor)?;
        self.open(to.account)?;
        let supply = asset.supply.checked_add(body.amount.get());
        asset.supply = supply.ok_or(FailureCode::AmountOverflow)?;
        if asset.supply > asset.supply_cap {
            return Err(FailureCode::SupplyCapExceeded.into());
        }
        self.credit(to, body.account, body.asset, body.amount.get())?;
        self.set(slot, Some(StateValue::Asset(asset)));
        Ok(())
    }

    fn redeem(&mut self, sender: Address, body: &SupplyBody, cursor: &mut Cursor<'_>) -> Step {
        let slot = cursor.next(StateKey::Asset(body.asset));
        let from = next_holding(cursor, body.account, body.asset);
        let mandate = next_mandate(cursor, sender, body.account, body.asset);
        let actor = next_agent(cursor, sender, body.account != sender);
        let mut asset = self.asset(slot)?;
        self.open(from.account)?;
        self.acts(actor)?;
        self.authorise(from, mandate, body.account, body.amount.get())?;
        self.debit(from, body.account, body.asset, body.amount.get())?;
        let supply = asset.supply.checked_sub(body.amount.get());
        asset.supply = supply.ok_or(Corrupt::SupplyBelowHolding { asset: body.asset })?;
        self.set(slot, Some(StateValue::Asset(asset)));
        Ok(())
    }

    /// The legs happen simultaneously: all credits come before all debits, so that what counts is
    /// the net change of each holding.
    fn settle(&mut self, sender: Address, legs: &[Leg], cursor: &mut Cursor<'_>) -> Step {
        let mut slots = core::mem::take(&mut self.legs);
        slots.clear();
        slots.extend(legs.iter().map(|leg| next_leg(cursor, sender, leg)));
        assert_eq!(slots.len(), legs.len(), "every leg has its slots");
        let actor = next_agent(cursor, sender, needs_mandate(sender, legs));
        let step = self.settle_legs(legs, &slots, actor);
        self.legs = slots;
        step
    }

    fn settle_legs(&mut self, legs: &[Leg], slots: &[LegSlots], actor: Option<u32>) -> Step {
        for slots in slots {
            self.asset(slots.asset)?;
            self.open(slots.from.account)?;
            self.open(slots.to.account)?;
        }
        self.acts(actor)?;
        for (leg, slots) in legs.iter().zip(slots) {
            self.authorise(slots.from, slots.mandate, leg.from, leg.amount.get())?;
        }
        for (leg, slots) in legs.iter().zip(slots) {
            self.credit(slots.to, leg.to, leg.asset, leg.amount.get())?;
        }
        for (leg, slots) in legs.iter().zip(slots) {
            self.debit(slots.from, leg.from, leg.asset, leg.amount.get())?;
        }
        Ok(())
    }

    fn grant(&mut self, sender: Address, body: &GrantMandateBody, cursor: &mut Cursor<'_>) -> Step {
        let (agent, asset) = (body.agent, body.asset);
        let asset_slot = cursor.next(StateKey::Asset(asset));
        let owner = cursor.next(StateKey::Account(sender));
        let slot = cursor.next(StateKey::Mandate { owner: sender, agent, asset });
        self.asset(asset_slot)?;
        let account = self.open(owner)?;
        let granted_at = self.plan.context().height;
        if body.expires_at.get() < granted_at {
            return Err(FailureCode::MandateExpired.into());
        }
        let is_full = account.mandates_count >= ACCOUNT_MANDATES_COUNT_MAX;
        if is_full && self.mandate(slot).is_none() {
            return Err(FailureCode::MandatesTooMany.into());
        }
        let (limit, expires_at) = (body.limit.get(), body.expires_at.get());
        assert!(limit > 0, "decoding refuses a mandate for nothing");
        self.set_mandate(slot, owner, sender, Some(Mandate { limit, expires_at, granted_at }))
    }

    fn revoke(
        &mut self,
        sender: Address,
        body: &RevokeMandateBody,
        cursor: &mut Cursor<'_>,
    ) -> Step {
        let (agent, asset) = (body.agent, body.asset);
        let owner = cursor.next(StateKey::Account(sender));
        let slot = cursor.next(StateKey::Mandate { owner: sender, agent, asset });
        if self.mandate(slot).is_none() {
            return Err(FailureCode::MandateMissing.into());
        }
        self.set_mandate(slot, owner, sender, None)?;
        assert!(self.mandate(slot).is_none(), "a revoked mandate is gone at once");
        Ok(())
    }

    fn freeze(&mut self, sender: Address, body: &HoldingBody, cursor: &mut Cursor<'_>) -> Step {
        let slots = self.governed(sender, body, cursor)?;
        let held = self.holding(slots.holding);
        if held.is_some_and(|holding| holding.frozen) {
            return Err(FailureCode::HoldingFrozen.into());
        }
        let balance = held.map_or(0, |holding| holding.balance);
        let frozen = Holding { balance, frozen: true };
        self.set_holding(slots, body.account, body.asset, frozen)
    }

    fn unfreeze(&mut self, sender: Address, body: &HoldingBody, cursor: &mut Cursor<'_>) -> Step {
        let slots = self.governed(sender, body, cursor)?;
        let held = self.holding(slots.holding).filter(|holding| holding.frozen);
        let balance = held.ok_or(FailureCode::HoldingNotFrozen)?.balance;
        let free = Holding { balance, frozen: false };
        self.set_holding(slots, body.account, body.asset, free)
    }

    /// The checks that freezing and unfreezing share.
    fn governed(
        &mut self,
        sender: Address,
        body: &HoldingBody,
        cursor: &mut Cursor<'_>,
    ) -> Result<HoldingSlots, Stop> {
        let asset = cursor.next(StateKey::Asset(body.asset));
        let actor = cursor.next(StateKey::Account(sender));
        let slots = next_holding(cursor, body.account, body.asset);
        let asset = self.asset(asset)?;
        self.governs(sender, &asset, actor)?;
        self.open(slots.account)?;
        Ok(slots)
    }

    /// Checks that the sender, whose account has the slot `actor`, may act as the asset's
    /// authority.
    fn governs(&self, sender: Address, asset: &Asset, actor: u32) -> Step {
        if sender != asset.authority {
            return Err(FailureCode::AuthorityMissing.into());
        }
        self.acts(Some(actor))
    }

    /// Checks that the account of a sender who acts for another is not closed; it need not exist.
    fn acts(&self, actor: Option<u32>) -> Step {
        let account = actor.and_then(|slot| self.account(slot));
        if account.is_some_and(|account| account.closed_at.is_some()) {
            return Err(FailureCode::AccountClosed.into());
        }
        Ok(())
    }

    /// Checks that the sender may debit `amount` of `owner`, and takes it off its mandate if it
    /// needs one.
    fn authorise(
        &mut self,
        from: HoldingSlots,
        mandate: Option<u32>,
        owner: Address,
        amount: u128,
    ) -> Step {
        assert!(amount > 0, "decoding refuses amounts of nothing");
        if let Some(slot) = mandate {
            let mut mandate = self.mandate(slot).ok_or(FailureCode::MandateMissing)?;
            if mandate.expires_at < self.plan.context().height {
                return Err(FailureCode::MandateExpired.into());
            }
            let left = mandate.limit.checked_sub(amount);
            mandate.limit = left.ok_or(FailureCode::MandateExceeded)?;
            let left = (mandate.limit > 0).then_some(mandate);
            self.set_mandate(slot, from.account, owner, left)?;
        }
        if self.holding(from.holding).is_some_and(|holding| holding.frozen) {
            return Err(FailureCode::HoldingFrozen.into());
        }
        Ok(())
    }

    fn credit(
        &mut self,
        slots: HoldingSlots,
        owner: Address,
        asset: AssetCode,
        amount: u128,
    ) -> Step {
        let holding = self.holding(slots.holding).unwrap_or(Holding { balance: 0, frozen: false });
        let balance = holding.balance.checked_add(amount).ok_or(FailureCode::AmountOverflow)?;
        assert!(balance > 0, "a credit leaves something");
        self.set_holding(slots, owner, asset, Holding { balance, ..holding })
    }

    fn debit(
        &mut self,
        slots: HoldingSlots,
        owner: Address,
        asset: AssetCode,
        amount: u128,
    ) -> Step {
        let holding = self.holding(slots.holding).unwrap_or(Holding { balance: 0, frozen: false });
        assert!(!holding.frozen, "authorisation comes before any debit");
        let left = holding.balance.checked_sub(amount);
        let mut balance = left.ok_or(FailureCode::BalanceInsufficient)?;
        if hufu_types::planted!("debit_forgotten") {
            balance = holding.balance;
        }
        self.set_holding(slots, owner, asset, Holding { balance, ..holding })
    }

    /// Stores a holding, or removes it when it is empty and free, and keeps its account's count.
    fn set_holding(
        &mut self,
        slots: HoldingSlots,
        owner: Address,
        asset: AssetCode,
        holding: Holding,
    ) -> Step {
        let before = self.holding(slots.holding).is_some();
        let after = holding.balance > 0 || holding.frozen;
        if before != after {
            let uncounted = Corrupt::HoldingUncounted { account: owner, asset };
            let mut account = self.account(slots.account).ok_or(uncounted)?;
            assert!(account.closed_at.is_none(), "the holdings of a closed account do not change");
            let count = account.holdings_count;
            let count = if after { count.checked_add(1) } else { count.checked_sub(1) };
            account.holdings_count = count.ok_or(uncounted)?;
            self.set(slots.account, Some(StateValue::Account(account)));
        }
        self.set(slots.holding, after.then_some(StateValue::Holding(holding)));
        Ok(())
    }

    /// Stores or removes a mandate, and keeps its owner's count.
    fn set_mandate(
        &mut self,
        slot: u32,
        owner_slot: u32,
        owner: Address,
        mandate: Option<Mandate>,
    ) -> Step {
        let (before, after) = (self.mandate(slot).is_some(), mandate.is_some());
        if before != after {
            let uncounted = Corrupt::MandateUncounted { account: owner };
            let mut account = self.account(owner_slot).ok_or(uncounted)?;
            let count = account.mandates_count;
            let count = if after { count.checked_add(1) } else { count.checked_sub(1) };
            account.mandates_count = count.ok_or(uncounted)?;
            assert!(
                account.mandates_count <= ACCOUNT_MANDATES_COUNT_MAX,
                "granting keeps the limit"
            );
            self.set(owner_slot, Some(StateValue::Account(account)));
        }
        self.set(slot, mandate.map(StateValue::Mandate));
        Ok(())
    }

    fn open(&self, slot: u32) -> Result<Account, FailureCode> {
        let account = self.account(slot).ok_or(FailureCode::AccountUnknown)?;
        if account.closed_at.is_some() { Err(FailureCode::AccountClosed) } else { Ok(account) }
    }

    fn account(&self, slot: u32) -> Option<Account> {
        let StateValue::Account(account) = self.value(slot)? else {
            unreachable!("the value of an account's key is an account")
        };
        Some(account)
    }

    fn asset(&self, slot: u32) -> Result<Asset, FailureCode> {
        match self.value(slot).ok_or(FailureCode::AssetUnknown)? {
            StateValue::Asset(asset) => Ok(asset),
            _ => unreachable!("the value of an asset's key is an asset"),
        }
    }

    fn holding(&self, slot: u32) -> Option<Holding> {
        let StateValue::Holding(holding) = self.value(slot)? else {
            unreachable!("the value of a holding's key is a holding")
        };
        Some(holding)
    }

    fn mandate(&self, slot: u32) -> Option<Mandate> {
        let StateValue::Mandate(mandate) = self.value(slot)? else {
            unreachable!("the value of a mandate's key is a mandate")
        };
        Some(mandate)
    }

    fn value(&self, slot: u32) -> Option<StateValue> {
        let home = self.plan.home(slot);
        if home.group == SHARED {
            return self.loaded.stored[index(slot)];
        }
        assert_eq!(home.group, self.group, "a group touches only what it owns or all share");
        self.values[index(home.local)]
    }

    fn set(&mut self, slot: u32, value: Option<StateValue>) {
        let home = self.plan.home(slot);
        assert_eq!(home.group, self.group, "a group writes only what it owns");
        let place = &mut self.values[index(home.local)];
        self.undo.push((home.local, core::mem::replace(place, value)));
    }
}

fn next_holding(cursor: &mut Cursor<'_>, owner: Address, asset: AssetCode) -> HoldingSlots {
    let account = cursor.next(StateKey::Account(owner));
    let holding = cursor.next(StateKey::Holding(owner, asset));
    HoldingSlots { account, holding }
}

fn next_mandate(
    cursor: &mut Cursor<'_>,
    sender: Address,
    owner: Address,
    asset: AssetCode,
) -> Option<u32> {
    let mandate = StateKey::Mandate { owner, agent: sender, asset };
    (owner != sender).then(|| cursor.next(mandate))
}

fn next_agent(cursor: &mut Cursor<'_>, sender: Address, is_agent: bool) -> Option<u32> {
    is_agent.then(|| cursor.next(StateKey::Account(sender)))
}

fn next_leg(cursor: &mut Cursor<'_>, sender: Address, leg: &Leg) -> LegSlots {
    assert!(leg.from != leg.to, "decoding refuses a leg from an account to itself");
    let asset = cursor.next(StateKey::Asset(leg.asset));
    let from = cursor.next(StateKey::Account(leg.from));
    let to = cursor.next(StateKey::Account(leg.to));
    let from = HoldingSlots {
        account: from,
        holding: cursor.next(StateKey::Holding(leg.from, leg.asset)),
    };
    let to =
        HoldingSlots { account: to, holding: cursor.next(StateKey::Holding(leg.to, leg.asset)) };
    let mandate = next_mandate(cursor, sender, leg.from, leg.asset);
    LegSlots { asset, from, to, mandate }
}
