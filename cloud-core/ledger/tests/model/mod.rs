//! A ledger as one would write it without a care for speed: one list of everything that ever happened, and every
//! question answered by walking it. Shares no code with the real one beyond the types of its requests.

use cloud_core_ledger::{
    Account, AccountId, Answer, BalanceLimit, Balancing, Movement, OpenAccount, Transfer, TransferId,
    TransferKind,
};

#[derive(Clone, Default)]
pub(crate) struct Model {
    accounts: Vec<(OpenAccount, bool)>,
    history: Vec<Entry>,
    /// Every member of each chain that was refused, and the position of the one that broke it.
    refused: Vec<(Transfer, bool)>,
}

#[derive(Clone)]
struct Entry {
    transfer: Transfer,
    movement: Movement,
    amount: u128,
    expires_at_ms: Option<u64>,
    phase: Phase,
    forgotten: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Moved,
    Waiting,
    Over,
    NoMoney,
}

/// Refused because of the state.
struct Refused;

/// The limit rule in the words of the design, on the ledger's own account.
pub(crate) fn is_within_limit(account: &Account) -> bool {
    let [debits_pending, debits_posted, credits_pending, credits_posted] =
        [account.debits_pending, account.debits_posted, account.credits_pending, account.credits_posted]
            .map(u128::from);
    match account.limit {
        BalanceLimit::Unlimited => true,
        BalanceLimit::DebitsMustNotExceedCredits => debits_pending + debits_posted <= credits_posted,
        BalanceLimit::CreditsMustNotExceedDebits => credits_pending + credits_posted <= debits_posted,
    }
}

impl Model {
    pub(crate) fn open(&mut self, request: &OpenAccount) -> bool {
        match self.accounts.iter().find(|(account, _)| account.id == request.id) {
            Some((account, _)) => account == request,
            None => {
                self.accounts.push((request.clone(), false));
                true
            }
        }
    }

    pub(crate) fn close(&mut self, id: AccountId) -> bool {
        let [debits_pending, debits_posted, credits_pending, credits_posted] = self.totals(id);
        let may = debits_pending == 0 && credits_pending == 0 && debits_posted == credits_posted;
        match self.accounts.iter_mut().find(|(account, _)| account.id == id) {
            Some((_, closed)) => {
                *closed |= may;
                *closed
            }
            None => false,
        }
    }

    /// Debits pending, debits posted, credits pending, credits posted.
    pub(crate) fn totals(&self, id: AccountId) -> [u128; 4] {
        let sum = |phase: Phase, side: fn(&Movement) -> AccountId| {
            self.history
                .iter()
                .filter(|entry| entry.phase == phase && side(&entry.movement) == id)
                .map(|entry| entry.amount)
                .sum()
        };
        [
            sum(Phase::Waiting, |movement| movement.debit),
            sum(Phase::Moved, |movement| movement.debit),
            sum(Phase::Waiting, |movement| movement.credit),
            sum(Phase::Moved, |movement| movement.credit),
        ]
    }

    pub(crate) fn next_expiry(&self) -> Option<u64> {
        self.waiting().into_iter().map(|(expires_at_ms, _)| expires_at_ms).next()
    }

    pub(crate) fn expire(&mut self, now_ms: u64, limit: usize) -> Vec<TransferId> {
        let mut due = self.waiting();
        due.retain(|(expires_at_ms, _)| *expires_at_ms <= now_ms);
        due.truncate(limit);
        let ids: Vec<TransferId> = due.into_iter().map(|(_, id)| id).collect();
        for id in &ids {
            self.known(*id).expect("is waiting").phase = Phase::Over;
        }
        ids
    }

    pub(crate) fn retire(&mut self, ids: &[TransferId]) -> bool {
        let waits = |entry: &mut Entry| entry.phase == Phase::Waiting;
        if ids.iter().any(|id| self.known(*id).is_some_and(waits)) {
            return false;
        }
        for id in ids {
            if let Some(entry) = self.known(*id) {
                entry.forgotten = true;
            }
            self.refused.retain(|(transfer, _)| transfer.id != *id);
        }
        true
    }

    pub(crate) fn submit(&mut self, chain: &[Transfer], now_ms: u64) -> Result<Answer, u32> {
        self.refuse_nonsense(chain)?;
        if self.recall(chain)? {
            return Ok(Answer::Exists);
        }
        let mut tried = self.clone();
        for (index, transfer) in (0..).zip(chain) {
            match tried.perform(transfer, now_ms) {
                Ok(()) => {}
                Err(Refused) => {
                    let members =
                        (0..).zip(chain).map(|(member, transfer)| (transfer.clone(), member == index));
                    self.refused.extend(members);
                    return Err(index);
                }
            }
        }
        *self = tried;
        Ok(Answer::Recorded)
    }

    fn refuse_nonsense(&self, chain: &[Transfer]) -> Result<(), u32> {
        for (index, transfer) in (0..).zip(chain) {
            let repeated = chain.iter().filter(|other| other.id == transfer.id).count() > 1
                && chain.iter().position(|other| other.id == transfer.id) != usize::try_from(index).ok();
            let nonsense = match &transfer.kind {
                TransferKind::Post(movement) => movement.amount == 0 || movement.debit == movement.credit,
                TransferKind::Reserve { movement, timeout_ms } => {
                    movement.amount == 0 || movement.debit == movement.credit || *timeout_ms == Some(0)
                }
                TransferKind::PostPending { pending, amount } => {
                    *amount == Some(0) || *pending == transfer.id
                }
                TransferKind::VoidPending { pending } => *pending == transfer.id,
            };
            if transfer.id.0 == 0 || repeated || nonsense {
                return Err(index);
            }
        }
        Ok(())
    }

    /// Whether the whole chain happened before.
    fn recall(&mut self, chain: &[Transfer]) -> Result<bool, u32> {
        let mut happened = Vec::new();
        let mut came_along = Vec::new();
        for (index, transfer) in (0u32..).zip(chain) {
            if let Some(entry) = self.known(transfer.id) {
                if entry.transfer != *transfer {
                    return Err(index);
                }
                happened.push(index);
            }
            if let Some((refused, broke_it)) = self.refused.iter().find(|(other, _)| other.id == transfer.id)
            {
                if refused != transfer || *broke_it {
                    return Err(index);
                }
                came_along.push(index);
            }
        }
        match (came_along.first(), happened.first()) {
            (Some(index), _) => Err(*index),
            (None, Some(index)) if happened.len() < chain.len() => Err(*index),
            (None, first) => Ok(first.is_some()),
        }
    }

    fn perform(&mut self, transfer: &Transfer, now_ms: u64) -> Result<(), Refused> {
        let (pending, posted) = match &transfer.kind {
            TransferKind::Post(movement) => return self.move_money(transfer, movement, None, now_ms),
            TransferKind::Reserve { movement, timeout_ms } => {
                return self.move_money(transfer, movement, Some(*timeout_ms), now_ms);
            }
            TransferKind::PostPending { pending, amount } => (*pending, Some(*amount)),
            TransferKind::VoidPending { pending } => (*pending, None),
        };
        let entry = self.known(pending).ok_or(Refused)?;
        let due = entry.expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms <= now_ms);
        if entry.phase != Phase::Waiting || due {
            return Err(Refused);
        }
        let amount = match posted {
            Some(Some(amount)) => u128::from(amount),
            Some(None) => entry.amount,
            None => 0,
        };
        if amount > entry.amount {
            return Err(Refused);
        }
        let movement = entry.movement;
        entry.phase = Phase::Over;
        let phase = if posted.is_some() { Phase::Moved } else { Phase::NoMoney };
        self.push(transfer, movement, amount, None, phase);
        Ok(())
    }

    fn move_money(
        &mut self,
        transfer: &Transfer,
        movement: &Movement,
        reserve: Option<Option<u64>>,
        now_ms: u64,
    ) -> Result<(), Refused> {
        let open = |id| {
            let account = self.accounts.iter().find(|(account, _)| account.id == id);
            account.filter(|(account, closed)| !closed && account.currency == movement.currency)
        };
        let (Some((debit, _)), Some((credit, _))) = (open(movement.debit), open(movement.credit)) else {
            return Err(Refused);
        };
        let [debit_dp, debit_d, _, debit_c] = self.totals(debit.id);
        let [_, credit_d, credit_cp, credit_c] = self.totals(credit.id);
        let most = match movement.balancing {
            None => u128::MAX,
            Some(Balancing::Debit) => debit_c.saturating_sub(debit_dp + debit_d),
            Some(Balancing::Credit) => credit_d.saturating_sub(credit_cp + credit_c),
        };
        let amount = u128::from(movement.amount).min(most);
        let debits = debit_dp + debit_d + amount;
        let credits = credit_cp + credit_c + amount;
        let overdraws = debit.limit == BalanceLimit::DebitsMustNotExceedCredits && debits > debit_c;
        let overfills = credit.limit == BalanceLimit::CreditsMustNotExceedDebits && credits > credit_d;
        let largest = u128::from(u64::MAX);
        if amount == 0 || debits > largest || credits > largest || overdraws || overfills {
            return Err(Refused);
        }
        let expires_at_ms = reserve.flatten().map(|timeout_ms| now_ms + timeout_ms);
        let phase = if reserve.is_some() { Phase::Waiting } else { Phase::Moved };
        self.push(transfer, *movement, amount, expires_at_ms, phase);
        Ok(())
    }

    fn push(
        &mut self,
        transfer: &Transfer,
        movement: Movement,
        amount: u128,
        expires_at_ms: Option<u64>,
        phase: Phase,
    ) {
        let transfer = transfer.clone();
        self.history.push(Entry { transfer, movement, amount, expires_at_ms, phase, forgotten: false });
    }

    fn known(&mut self, id: TransferId) -> Option<&mut Entry> {
        self.history.iter_mut().find(|entry| entry.transfer.id == id && !entry.forgotten)
    }

    fn waiting(&self) -> Vec<(u64, TransferId)> {
        let mut waiting: Vec<_> = self
            .history
            .iter()
            .filter(|entry| entry.phase == Phase::Waiting)
            .filter_map(|entry| Some((entry.expires_at_ms?, entry.transfer.id)))
            .collect();
        waiting.sort();
        waiting
    }
}
