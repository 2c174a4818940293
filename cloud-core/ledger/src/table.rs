//! Rows by id: found in constant time, read in order of id.
//!
//! The ledger looks up each transfer and both its accounts several times for every decision, by ids that come in no
//! order; a search tree misses the processor's cache at each level, a hash table once or twice. No order but that of
//! the ids can be seen from outside, so hashing decides nothing: two ledgers with the same rows are equal, and are
//! stored as the same bytes, however they came by them.
//!
//! The hash has no secret, since nothing here may be random. Ids are truncated SHA-256 in the product, so they are
//! spread evenly; a payer who tries names for his payments until their ids collide must then have every one of those
//! payments verified and charged, and sixteen of them make a look-up longer by one comparison.

use alloc::vec::Vec;

use hashbrown::HashTable;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

use crate::{Account, AccountId, FailedTransfer, TransferId, TransferRecord};

/// Growing copies all rows of a table. In parts, it keeps nobody waiting for long: at ten million rows some 10 ms.
const PARTS: usize = 256;

/// What a table holds.
pub(crate) trait Row {
    type Id: Id;
    fn id(&self) -> Self::Id;
}

pub(crate) trait Id: Copy + Ord {
    fn number(self) -> u128;
}

/// Rows by id, at most one for each.
#[derive(Clone, Debug)]
pub(crate) struct Table<R> {
    /// By the first byte of the id, so that the parts in order hold the ids in order.
    parts: Vec<HashTable<R>>,
    len: usize,
}

impl<R: Row> Table<R> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, id: R::Id) -> Option<&R> {
        self.parts[part(id)].find(hash(id), |row| row.id() == id)
    }

    pub(crate) fn get_mut(&mut self, id: R::Id) -> Option<&mut R> {
        self.parts[part(id)].find_mut(hash(id), |row| row.id() == id)
    }

    pub(crate) fn contains(&self, id: R::Id) -> bool {
        self.get(id).is_some()
    }

    /// Replaces the row of the same id. True if there was none.
    pub(crate) fn insert(&mut self, row: R) -> bool {
        let id = row.id();
        if let Some(found) = self.get_mut(id) {
            *found = row;
            return false;
        }
        self.parts[part(id)].insert_unique(hash(id), row, |row| hash(row.id()));
        self.len += 1;
        true
    }

    pub(crate) fn remove(&mut self, id: R::Id) {
        if let Ok(entry) = self.parts[part(id)].find_entry(hash(id), |row| row.id() == id) {
            entry.remove();
            self.len -= 1;
        }
    }

    /// All rows in order of id.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &R> {
        self.parts.iter().flat_map(|part| {
            let mut rows: Vec<&R> = part.iter().collect();
            rows.sort_unstable_by_key(|row| row.id());
            rows
        })
    }
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| HashTable::new()).collect(), len: 0 }
    }
}

/// The same rows, wherever in memory.
impl<R: Row + PartialEq> PartialEq for Table<R> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self.parts.iter().flatten().all(|row| other.get(row.id()).is_some_and(|other| row == other))
    }
}

impl<R: Row + Eq> Eq for Table<R> {}

/// A list in order of id.
impl<R: Row + Serialize> Serialize for Table<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.len))?;
        self.rows().try_for_each(|row| list.serialize_element(row))?;
        list.end()
    }
}

impl Row for Account {
    type Id = AccountId;
    fn id(&self) -> AccountId {
        self.id
    }
}

impl Row for TransferRecord {
    type Id = TransferId;
    fn id(&self) -> TransferId {
        self.transfer.id
    }
}

impl Row for FailedTransfer {
    type Id = TransferId;
    fn id(&self) -> TransferId {
        self.transfer.id
    }
}

impl Id for AccountId {
    fn number(self) -> u128 {
        self.0
    }
}

impl Id for TransferId {
    fn number(self) -> u128 {
        self.0
    }
}

fn part(id: impl Id) -> usize {
    usize::from(id.number().to_be_bytes()[0])
}

/// Both halves multiplied, and the halves of the product folded: every bit of the id reaches the bits that the table
/// uses, so ids that merely count up are spread as well. The constants are digits of pi.
fn hash(id: impl Id) -> u64 {
    let number = id.number();
    let (high, low) = ((number >> 64) as u64, number as u64);
    let product = u128::from(high ^ 0x243f_6a88_85a3_08d3) * u128::from(low ^ 0x1319_8a2e_0370_7344);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    use crate::{BalanceLimit, LedgerCode, OpenAccount};

    fn account(id: u128, opened_at_ms: u64) -> Account {
        let limit = BalanceLimit::Unlimited;
        Account::open(
            &OpenAccount { id: AccountId(id), currency: LedgerCode(978), code: 0, limit },
            opened_at_ms,
        )
    }

    fn fill(table: &mut Table<Account>, ids: impl Iterator<Item = u128>, opened_at_ms: u64) {
        for id in ids {
            table.insert(account(id, opened_at_ms));
        }
    }

    /// Ids that count up, ids that differ in their first byte only, and ids in no order.
    fn ids() -> impl Iterator<Item = u128> {
        let scattered = |n: u128| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        (1..=2_000).chain((1..=255).map(|n| n << 120)).chain((2..2_000).map(scattered))
    }

    #[test]
    fn a_table_answers_as_a_map_does() {
        let (mut table, mut map) = (Table::default(), BTreeMap::new());
        for (opened_at_ms, id) in (0..).zip(ids().chain(ids().take(500))) {
            let row = account(id, opened_at_ms);
            assert_eq!(table.insert(row.clone()), map.insert(row.id, row).is_none());
        }
        for id in ids().step_by(3).chain([7]) {
            table.remove(AccountId(id));
            map.remove(&AccountId(id));
        }
        assert_eq!(table.len(), map.len());
        assert!(table.rows().eq(map.values()), "in order of id");
        for id in ids().map(AccountId) {
            assert_eq!(table.get(id), map.get(&id));
            assert_eq!(table.get_mut(id), map.get_mut(&id));
            assert_eq!(table.contains(id), map.contains_key(&id));
        }
    }

    #[test]
    fn the_same_rows_are_equal_and_stored_alike_whatever_came_before() {
        let mut forth = Table::default();
        let mut back = Table::default();
        fill(&mut forth, ids(), 1);
        fill(&mut back, ids().map(|id| id ^ 0xffff), 2);
        ids().map(|id| AccountId(id ^ 0xffff)).for_each(|id| back.remove(id));
        assert_eq!(back, Table::default());
        let reversed: Vec<u128> = ids().collect();
        fill(&mut back, reversed.into_iter().rev(), 1);
        assert_eq!(forth, back);
        assert_eq!(serde_cbor::to_vec(&forth).unwrap(), serde_cbor::to_vec(&back).unwrap());

        back.insert(account(5, 2));
        assert_ne!(forth, back, "one row differs");
        back.remove(AccountId(5));
        assert_ne!(forth, back, "one row is missing");
    }
}
