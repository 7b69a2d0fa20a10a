//! The ledger again, written from the rules alone: maps, copies and loops, nothing shared with the
//! real one but the words.

use std::collections::{BTreeMap, BTreeSet};

use hufu_types::FailureCode as Code;

use super::fixture::{Act, ISSUER, Move, OPENER, Tx, address, asset};
use crate::{Account, Asset, Holding, Mandate, Nonce, StateKey, StateValue};

#[derive(Clone, Debug)]
struct Coin {
    authority: u8,
    created_at: u64,
    cap: u128,
    supply: u128,
}

#[derive(Clone, Debug, Default)]
struct Books {
    /// Opened at, closed at.
    accounts: BTreeMap<u8, (u64, Option<u64>)>,
    coins: BTreeMap<u8, Coin>,
    /// Balance, frozen.
    holdings: BTreeMap<(u8, u8), (u128, bool)>,
    /// (Owner, agent, asset): limit left, expires at, granted at.
    mandates: BTreeMap<(u8, u8, u8), (u128, u64, u64)>,
}

/// The model of a whole ledger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    height: u64,
    books: Books,
    /// (Sender, nonce): valid until, used at.
    nonces: BTreeMap<(u8, u64), (u64, u64)>,
}

pub(crate) type Verdict = Result<(), (Code, Option<u16>)>;

impl Model {
    pub(crate) fn block(&mut self, transactions: &[Tx]) -> Vec<Verdict> {
        self.height += 1;
        let height = self.height;
        self.nonces.retain(|_, (valid_until, _)| *valid_until >= height);
        transactions.iter().map(|tx| self.transaction(tx)).collect()
    }

    fn transaction(&mut self, tx: &Tx) -> Verdict {
        if tx.valid_until < self.height || tx.valid_until > self.height + 600 {
            return Err((Code::Expired, None));
        }
        if self.nonces.contains_key(&(tx.sender, tx.nonce)) {
            return Err((Code::NonceUsed, None));
        }
        self.nonces.insert((tx.sender, tx.nonce), (tx.valid_until, self.height));
        let mut books = self.books.clone();
        for (place, act) in tx.acts.iter().enumerate() {
            books
                .act(self.height, tx.sender, act)
                .map_err(|code| (code, Some(u16::try_from(place).unwrap())))?;
            books.holdings.retain(|_, (balance, frozen)| *balance > 0 || *frozen);
            books.mandates.retain(|_, (limit, ..)| *limit > 0);
        }
        self.books = books;
        Ok(())
    }

    /// The state as the real ledger should have it.
    pub(crate) fn state(&self) -> BTreeMap<StateKey, StateValue> {
        let books = &self.books;
        let mut state = BTreeMap::new();
        for (&person, &(opened_at, closed_at)) in &books.accounts {
            let held = books.holdings.keys().filter(|(owner, _)| *owner == person).count();
            let holdings_count = u32::try_from(held).unwrap();
            let granted = books.mandates.keys().filter(|(owner, ..)| *owner == person).count();
            let mandates_count = u16::try_from(granted).unwrap();
            let account = Account { opened_at, closed_at, holdings_count, mandates_count };
            state.insert(StateKey::Account(address(person)), StateValue::Account(account));
        }
        for (&number, coin) in &books.coins {
            let value = Asset {
                authority: address(coin.authority),
                decimals: 2,
                created_at: coin.created_at,
                supply_cap: coin.cap,
                supply: coin.supply,
            };
            state.insert(StateKey::Asset(asset(number)), StateValue::Asset(value));
        }
        for (&(person, number), &(balance, frozen)) in &books.holdings {
            let key = StateKey::Holding(address(person), asset(number));
            state.insert(key, StateValue::Holding(Holding { balance, frozen }));
        }
        for (&(owner, agent, number), &(limit, expires_at, granted_at)) in &books.mandates {
            let (owner, agent) = (address(owner), address(agent));
            let key = StateKey::Mandate { owner, agent, asset: asset(number) };
            state.insert(key, StateValue::Mandate(Mandate { limit, expires_at, granted_at }));
        }
        for (&(sender, nonce), &(valid_until, used_at)) in &self.nonces {
            let key = StateKey::Nonce { sender: address(sender), nonce };
            state.insert(key, StateValue::Nonce(Nonce { valid_until, used_at }));
        }
        state
    }
}

fn ensure(holds: bool, code: Code) -> Result<(), Code> {
    if holds { Ok(()) } else { Err(code) }
}

impl Books {
    fn act(&mut self, height: u64, sender: u8, act: &Act) -> Result<(), Code> {
        match *act {
            Act::Open(person) => {
                ensure(sender == OPENER, Code::AuthorityMissing)?;
                match self.accounts.get(&person) {
                    Some((_, None)) => return Err(Code::AccountExists),
                    Some((_, Some(_))) => return Err(Code::AccountClosed),
                    None => self.accounts.insert(person, (height, None)),
                };
            }
            Act::Close(person) => {
                ensure(sender == OPENER || sender == person, Code::AuthorityMissing)?;
                self.open(person)?;
                let holds = self.holdings.keys().any(|(owner, _)| *owner == person);
                ensure(!holds, Code::AccountNotEmpty)?;
                self.accounts.get_mut(&person).unwrap().1 = Some(height);
            }
            Act::Create { asset, authority, cap } => {
                ensure(sender == ISSUER, Code::AuthorityMissing)?;
                ensure(!self.coins.contains_key(&asset), Code::AssetExists)?;
                self.coins.insert(asset, Coin { authority, created_at: height, cap, supply: 0 });
            }
            Act::Issue { asset, account, amount } => {
                self.authority(asset, sender)?;
                self.open(account)?;
                let coin = self.coins.get_mut(&asset).unwrap();
                let supply = coin.supply.checked_add(amount).ok_or(Code::AmountOverflow)?;
                ensure(supply <= coin.cap, Code::SupplyCapExceeded)?;
                coin.supply = supply;
                self.holdings.entry((account, asset)).or_default().0 += amount;
            }
            Act::Redeem { asset, account, amount } => {
                ensure(self.coins.contains_key(&asset), Code::AssetUnknown)?;
                self.open(account)?;
                self.authorise(height, sender, account, asset, amount)?;
                let held = self.holdings.entry((account, asset)).or_default();
                ensure(held.0 >= amount, Code::BalanceInsufficient)?;
                held.0 -= amount;
                self.coins.get_mut(&asset).unwrap().supply -= amount;
            }
            Act::Transfer(movement) => self.settle(height, sender, &[movement])?,
            Act::Settle(ref moves) => self.settle(height, sender, moves)?,
            Act::Grant { agent, asset, limit, expires_at } => {
                ensure(self.coins.contains_key(&asset), Code::AssetUnknown)?;
                self.open(sender)?;
                ensure(expires_at >= height, Code::MandateExpired)?;
                self.mandates.insert((sender, agent, asset), (limit, expires_at, height));
            }
            Act::Revoke { agent, asset } => {
                let gone = self.mandates.remove(&(sender, agent, asset));
                ensure(gone.is_some(), Code::MandateMissing)?;
            }
            Act::Notarise => {}
            Act::Freeze { asset, account } => {
                self.authority(asset, sender)?;
                self.open(account)?;
                let held = self.holdings.entry((account, asset)).or_default();
                ensure(!held.1, Code::HoldingFrozen)?;
                held.1 = true;
            }
            Act::Unfreeze { asset, account } => {
                self.authority(asset, sender)?;
                self.open(account)?;
                let held = self.holdings.entry((account, asset)).or_default();
                ensure(held.1, Code::HoldingNotFrozen)?;
                held.1 = false;
            }
        }
        Ok(())
    }

    fn open(&self, person: u8) -> Result<(), Code> {
        let (_, closed) = self.accounts.get(&person).ok_or(Code::AccountUnknown)?;
        ensure(closed.is_none(), Code::AccountClosed)
    }

    fn authority(&self, asset: u8, sender: u8) -> Result<(), Code> {
        let coin = self.coins.get(&asset).ok_or(Code::AssetUnknown)?;
        ensure(coin.authority == sender, Code::AuthorityMissing)?;
        self.acts(sender)
    }

    /// Who has closed its account acts for nobody else.
    fn acts(&self, sender: u8) -> Result<(), Code> {
        let closed = matches!(self.accounts.get(&sender), Some((_, Some(_))));
        ensure(!closed, Code::AccountClosed)
    }

    fn authorise(
        &mut self,
        height: u64,
        sender: u8,
        owner: u8,
        asset: u8,
        amount: u128,
    ) -> Result<(), Code> {
        if sender != owner {
            self.acts(sender)?;
            let mandate = self.mandates.get_mut(&(owner, sender, asset));
            // A mandate used up by an earlier leg is gone for the next one.
            let mandate = mandate.filter(|(limit, ..)| *limit > 0);
            let (limit, expires_at, _) = mandate.ok_or(Code::MandateMissing)?;
            ensure(*expires_at >= height, Code::MandateExpired)?;
            ensure(*limit >= amount, Code::MandateExceeded)?;
            *limit -= amount;
        }
        let frozen = self.holdings.get(&(owner, asset)).is_some_and(|(_, frozen)| *frozen);
        ensure(!frozen, Code::HoldingFrozen)
    }

    /// Net changes at once: what flows in and out of each holding is summed up first.
    fn settle(&mut self, height: u64, sender: u8, moves: &[Move]) -> Result<(), Code> {
        for movement in moves {
            ensure(self.coins.contains_key(&movement.asset), Code::AssetUnknown)?;
            self.open(movement.from)?;
            self.open(movement.to)?;
        }
        if moves.iter().any(|movement| movement.from != sender) {
            self.acts(sender)?;
        }
        for movement in moves {
            let Move { asset, from, amount, .. } = *movement;
            self.authorise(height, sender, from, asset, amount)?;
        }
        let sum = |mut amounts: Vec<u128>| -> Option<u128> {
            amounts.drain(..).try_fold(0_u128, u128::checked_add)
        };
        let touched: BTreeSet<(u8, u8)> = moves
            .iter()
            .flat_map(|movement| [(movement.from, movement.asset), (movement.to, movement.asset)])
            .collect();
        let mut after = Vec::new();
        for &(person, asset) in &touched {
            let (balance, frozen) = *self.holdings.entry((person, asset)).or_default();
            let of = |wanted: &dyn Fn(&Move) -> u8| {
                let mine = moves.iter().filter(|movement| movement.asset == asset);
                mine.filter(|movement| wanted(movement) == person)
                    .map(|movement| movement.amount)
                    .collect::<Vec<u128>>()
            };
            let mut credits = of(&|movement| movement.to);
            credits.push(balance);
            let reached = sum(credits).ok_or(Code::AmountOverflow)?;
            after.push(((person, asset), reached, sum(of(&|movement| movement.from)), frozen));
        }
        for (key, reached, debits, frozen) in after {
            let left = debits.and_then(|debits| reached.checked_sub(debits));
            self.holdings.insert(key, (left.ok_or(Code::BalanceInsufficient)?, frozen));
        }
        Ok(())
    }
}
