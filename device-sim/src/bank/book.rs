//! The bank's book: what was asked, what was decided, who owns what. No clock, no sockets.
//!
//! Every decision is final the moment it is recorded. Asking again with the same key and content gives
//! the recorded decision, never a second movement of money (MO-3); a cancelled key is a fence that a
//! delayed request can't pass (correctness.md 18).

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::decimal_text;

/// Limits of the test bank. A real bank has its own; what matters is that there are some.
pub mod limits {
    /// Bytes of an account name.
    pub const ACCOUNT_BYTES: usize = 128;
    /// Bytes of a reference.
    pub const REFERENCE_BYTES: usize = 140;
    /// Digits after the decimal point of an amount; no currency of ISO 4217 has more than four.
    pub const AMOUNT_SCALE: u32 = 4;
    /// Entries of each kind (accounts, transfers, refunds).
    pub const ENTRIES: usize = 1_000_000;
}

/// A transfer's or refund's key: 32 hexadecimal digits, chosen by the caller before sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(pub [u8; 16]);

impl std::str::FromStr for Key {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Self, Unacceptable> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Key).ok_or(Unacceptable::Key)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl TryFrom<String> for Key {
    type Error = Unacceptable;

    fn try_from(text: String) -> Result<Self, Unacceptable> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

/// What a caller wants moved. `not_after_ms` is Unix time in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// Account that pays.
    pub from: String,
    /// Account that receives.
    pub to: String,
    /// Amount in the currency's major unit, more than zero.
    #[serde(with = "decimal_text")]
    pub amount: Decimal,
    /// ISO 4217 code, the same as both accounts'.
    pub currency: String,
    /// A first request after this moment is refused for good.
    pub not_after_ms: u64,
    /// Free text for the statement.
    pub reference: String,
}

/// What a caller wants given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundRequest {
    /// The transfer to give back from.
    pub of: Key,
    /// Amount, more than zero; all refunds of a transfer together never exceed it.
    #[serde(with = "decimal_text")]
    pub amount: Decimal,
    /// ISO 4217 code of the transfer.
    pub currency: String,
}

/// The decision on a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Decision {
    /// The money moved.
    Done,
    /// The money did not and will never move under this key.
    Refused {
        /// Stable code: why.
        code: String,
    },
    /// Fenced: the transfer can never happen.
    Cancelled,
}

/// An account as audits see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// What it owns now; never negative.
    #[serde(with = "decimal_text")]
    pub balance: Decimal,
    /// What it was opened with, so that an audit can check that nothing appeared or vanished.
    #[serde(with = "decimal_text")]
    pub opened_with: Decimal,
    /// ISO 4217 code.
    pub currency: String,
}

/// A transfer's line in the book. `request` is absent when the key was cancelled before it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// What was asked.
    pub request: Option<TransferRequest>,
    /// What was decided.
    #[serde(flatten)]
    pub decision: Decision,
    /// Given back so far.
    #[serde(with = "decimal_text")]
    pub refunded: Decimal,
}

/// A refund's line in the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// What was asked.
    pub request: RefundRequest,
    /// What was decided; never `Cancelled`.
    #[serde(flatten)]
    pub decision: Decision,
}

/// A request that is no request: nothing is recorded, so the caller may correct it and use the key again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// Not 32 hexadecimal digits.
    #[error("the key is not 32 hexadecimal digits: choose 16 random bytes and write them in hexadecimal")]
    Key,
    /// Same key, other content (MO-3).
    #[error("this key was used with other content: use a new key for a new request")]
    Conflict,
    /// Too long, empty, or an amount that is no amount.
    #[error("`{0}` is empty, too long or not positive: correct it and send again")]
    Field(&'static str),
    /// [`limits::ENTRIES`] reached.
    #[error("the book is full: start a new test bank")]
    Full,
}

/// The whole book. Serialised as it is for `GET /book` and for the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Book {
    /// Accounts by name.
    pub accounts: BTreeMap<String, Account>,
    /// Transfers by key.
    pub transfers: BTreeMap<Key, Transfer>,
    /// Refunds by key.
    pub refunds: BTreeMap<Key, Refund>,
}

impl Book {
    /// Opens an account. Opening it again in the same way changes nothing; in another way is a conflict.
    pub fn open_account(&mut self, name: &str, balance: Decimal, currency: &str) -> Result<(), Unacceptable> {
        text("account", name, limits::ACCOUNT_BYTES)?;
        check_currency(currency)?;
        if balance.is_sign_negative() || balance.scale() > limits::AMOUNT_SCALE {
            return Err(Unacceptable::Field("balance"));
        }
        if let Some(account) = self.accounts.get(name) {
            let same = account.opened_with == balance && account.currency == currency;
            return if same { Ok(()) } else { Err(Unacceptable::Conflict) };
        }
        full(self.accounts.len())?;
        let currency = currency.to_owned();
        self.accounts.insert(name.to_owned(), Account { balance, opened_with: balance, currency });
        Ok(())
    }

    /// Moves money once per key (CP-7). `refuse_with` is the fault injector's code: a refusal for good.
    pub fn transfer(
        &mut self,
        key: Key,
        request: &TransferRequest,
        now_ms: u64,
        refuse_with: Option<&str>,
    ) -> Result<Decision, Unacceptable> {
        text("from", &request.from, limits::ACCOUNT_BYTES)?;
        text("to", &request.to, limits::ACCOUNT_BYTES)?;
        check_currency(&request.currency)?;
        check_amount(request.amount)?;
        if request.reference.len() > limits::REFERENCE_BYTES {
            return Err(Unacceptable::Field("reference"));
        }
        if let Some(known) = self.transfers.get(&key) {
            return match &known.request {
                Some(first) if first != request => Err(Unacceptable::Conflict),
                _ => Ok(known.decision.clone()),
            };
        }
        full(self.transfers.len())?;
        let refusal = refuse_with.map(str::to_owned).or_else(|| self.transfer_refusal(request, now_ms));
        let decision = match refusal {
            Some(code) => Decision::Refused { code },
            None => {
                self.move_money(&request.from, &request.to, request.amount);
                Decision::Done
            }
        };
        let line =
            Transfer { request: Some(request.clone()), decision: decision.clone(), refunded: Decimal::ZERO };
        self.transfers.insert(key, line);
        Ok(decision)
    }

    /// What was decided on a transfer; `None` = never seen, which is final only after `not_after_ms`.
    pub fn status(&self, key: Key) -> Option<Decision> {
        self.transfers.get(&key).map(|transfer| transfer.decision.clone())
    }

    /// Fences a transfer, even one never seen. A decision already made stands and is the answer.
    pub fn cancel(&mut self, key: Key) -> Result<Decision, Unacceptable> {
        if let Some(known) = self.transfers.get(&key) {
            return Ok(known.decision.clone());
        }
        full(self.transfers.len())?;
        let line = Transfer { request: None, decision: Decision::Cancelled, refunded: Decimal::ZERO };
        self.transfers.insert(key, line);
        Ok(Decision::Cancelled)
    }

    /// Gives money back once per key, from the account that received it (CP-12).
    pub fn refund(
        &mut self,
        key: Key,
        request: &RefundRequest,
        refuse_with: Option<&str>,
    ) -> Result<Decision, Unacceptable> {
        check_currency(&request.currency)?;
        check_amount(request.amount)?;
        if let Some(known) = self.refunds.get(&key) {
            return if known.request == *request {
                Ok(known.decision.clone())
            } else {
                Err(Unacceptable::Conflict)
            };
        }
        full(self.refunds.len())?;
        let decided = match refuse_with {
            Some(code) => Err(code.to_owned()),
            None => self.book_refund(request).map_err(str::to_owned),
        };
        let decision = match decided {
            Ok(()) => Decision::Done,
            Err(code) => Decision::Refused { code },
        };
        self.refunds.insert(key, Refund { request: request.clone(), decision: decision.clone() });
        Ok(decision)
    }

    /// The ladder of refusals, in the order in which a caller sees them.
    fn transfer_refusal(&self, request: &TransferRequest, now_ms: u64) -> Option<String> {
        let code = match (self.accounts.get(&request.from), self.accounts.get(&request.to)) {
            _ if now_ms > request.not_after_ms => "too_late",
            (None, _) | (_, None) => "unknown_account",
            _ if request.from == request.to => "same_account",
            (Some(from), Some(to))
                if from.currency != request.currency || to.currency != request.currency =>
            {
                "other_currency"
            }
            (Some(from), _) if from.balance < request.amount => "insufficient_funds",
            (_, Some(to)) if to.balance.checked_add(request.amount).is_none() => "balance_overflow",
            _ => return None,
        };
        Some(code.to_owned())
    }

    fn book_refund(&mut self, request: &RefundRequest) -> Result<(), &'static str> {
        let transfer = self.transfers.get_mut(&request.of).ok_or("unknown_transfer")?;
        let Some(paid) = &transfer.request else { return Err("transfer_not_done") };
        if transfer.decision != Decision::Done {
            return Err("transfer_not_done");
        }
        if paid.currency != request.currency {
            return Err("other_currency");
        }
        let refunded = transfer.refunded.checked_add(request.amount).ok_or("exceeds_transfer")?;
        if refunded > paid.amount {
            return Err("exceeds_transfer");
        }
        if self.accounts.get(&paid.to).is_none_or(|receiver| receiver.balance < request.amount) {
            return Err("insufficient_funds");
        }
        transfer.refunded = refunded;
        let (payer, receiver) = (paid.from.clone(), paid.to.clone());
        self.move_money(&receiver, &payer, request.amount);
        Ok(())
    }

    /// After the ladder this can't fail: both accounts exist, the payer has the money, the sum fits.
    fn move_money(&mut self, from: &str, to: &str, amount: Decimal) {
        if let Some(account) = self.accounts.get_mut(from) {
            account.balance -= amount;
        }
        if let Some(account) = self.accounts.get_mut(to) {
            account.balance += amount;
        }
    }
}

fn text(field: &'static str, value: &str, limit_bytes: usize) -> Result<(), Unacceptable> {
    if value.is_empty() || value.len() > limit_bytes { Err(Unacceptable::Field(field)) } else { Ok(()) }
}

fn check_currency(currency: &str) -> Result<(), Unacceptable> {
    let iso = currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_uppercase());
    if iso { Ok(()) } else { Err(Unacceptable::Field("currency")) }
}

fn check_amount(amount: Decimal) -> Result<(), Unacceptable> {
    let money = amount > Decimal::ZERO && amount.scale() <= limits::AMOUNT_SCALE;
    if money { Ok(()) } else { Err(Unacceptable::Field("amount")) }
}

fn full(entries: usize) -> Result<(), Unacceptable> {
    if entries < limits::ENTRIES { Ok(()) } else { Err(Unacceptable::Full) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000;

    fn key(byte: u8) -> Key {
        Key([byte; 16])
    }

    fn money(text: &str) -> Decimal {
        Decimal::from_str_exact(text).unwrap()
    }

    fn request(from: &str, to: &str, amount: &str) -> TransferRequest {
        TransferRequest {
            from: from.to_owned(),
            to: to.to_owned(),
            amount: money(amount),
            currency: "EUR".to_owned(),
            not_after_ms: 2_000,
            reference: "coffee".to_owned(),
        }
    }

    fn refund(of: Key, amount: &str) -> RefundRequest {
        RefundRequest { of, amount: money(amount), currency: "EUR".to_owned() }
    }

    fn refused(code: &str) -> Decision {
        Decision::Refused { code: code.to_owned() }
    }

    fn book() -> Book {
        let mut book = Book::default();
        book.open_account("payer", money("10.00"), "EUR").unwrap();
        book.open_account("holding", money("0"), "EUR").unwrap();
        book.open_account("dollars", money("10"), "USD").unwrap();
        book
    }

    fn balances(book: &Book) -> (String, String) {
        (
            book.accounts["payer"].balance.normalize().to_string(),
            book.accounts["holding"].balance.normalize().to_string(),
        )
    }

    fn check_nothing_appeared(book: &Book) {
        for currency in ["EUR", "USD"] {
            let of = || book.accounts.values().filter(|account| account.currency == currency);
            let now: Decimal = of().map(|account| account.balance).sum();
            let opened: Decimal = of().map(|account| account.opened_with).sum();
            assert_eq!(now, opened, "{currency}");
            assert!(of().all(|account| account.balance >= Decimal::ZERO));
        }
    }

    /// CP-7: every way a transfer is refused, and the order of the ladder.
    #[test]
    fn transfer_ladder() {
        let late = |mut request: TransferRequest| {
            request.not_after_ms = NOW - 1;
            request
        };
        let table = [
            (late(request("nobody", "holding", "1")), refused("too_late")),
            (request("nobody", "holding", "1"), refused("unknown_account")),
            (request("payer", "nobody", "1"), refused("unknown_account")),
            (request("payer", "payer", "1"), refused("same_account")),
            (request("dollars", "holding", "1"), refused("other_currency")),
            (request("payer", "holding", "10.01"), refused("insufficient_funds")),
            (request("payer", "holding", "10.00"), Decision::Done),
        ];
        for (number, (request, expected)) in table.into_iter().enumerate() {
            let mut book = book();
            let key = key(u8::try_from(number).unwrap());
            assert_eq!(book.transfer(key, &request, NOW, None), Ok(expected.clone()), "row {number}");
            assert_eq!(book.status(key), Some(expected.clone()), "row {number}");
            // Recorded for good: the same answer when funds and time have changed.
            book.open_account("nobody", money("5"), "EUR").unwrap();
            assert_eq!(book.transfer(key, &request, 9_999, None), Ok(expected), "row {number}, again");
            check_nothing_appeared(&book);
        }
    }

    /// MO-3: one movement per key; equal amounts written differently are the same content.
    #[test]
    fn repeat_moves_once_and_other_content_conflicts() {
        let mut book = book();
        assert_eq!(book.transfer(key(1), &request("payer", "holding", "3.5"), NOW, None), Ok(Decision::Done));
        assert_eq!(
            book.transfer(key(1), &request("payer", "holding", "3.50"), NOW, None),
            Ok(Decision::Done)
        );
        let other = book.transfer(key(1), &request("payer", "holding", "3.51"), NOW, None);
        assert_eq!(other, Err(Unacceptable::Conflict));
        assert_eq!(balances(&book), ("6.5".to_owned(), "3.5".to_owned()));
    }

    /// correctness.md 18: cancel is a fence, even for a key never seen; a decision already made stands.
    #[test]
    fn cancel_fences_what_is_undecided() {
        let mut book = book();
        assert_eq!(book.status(key(1)), None);
        assert_eq!(book.cancel(key(1)), Ok(Decision::Cancelled));
        assert_eq!(book.cancel(key(1)), Ok(Decision::Cancelled));
        let delayed = book.transfer(key(1), &request("payer", "holding", "3"), NOW, None);
        assert_eq!(delayed, Ok(Decision::Cancelled));
        assert_eq!(balances(&book), ("10".to_owned(), "0".to_owned()));

        book.transfer(key(2), &request("payer", "holding", "3"), NOW, None).unwrap();
        assert_eq!(book.cancel(key(2)), Ok(Decision::Done));
        book.transfer(key(3), &request("payer", "holding", "30"), NOW, None).unwrap();
        assert_eq!(book.cancel(key(3)), Ok(refused("insufficient_funds")));
    }

    /// CP-12: refunds together never exceed the transfer, once per key, from the account that received.
    #[test]
    fn refunds_never_exceed_the_transfer() {
        let mut book = book();
        book.transfer(key(1), &request("payer", "holding", "5"), NOW, None).unwrap();
        book.cancel(key(2)).unwrap();
        let dollars = RefundRequest { currency: "USD".to_owned(), ..refund(key(1), "1") };
        let table = [
            (10, refund(key(9), "1"), Ok(refused("unknown_transfer"))),
            (11, refund(key(2), "1"), Ok(refused("transfer_not_done"))),
            (12, dollars, Ok(refused("other_currency"))),
            (13, refund(key(1), "5.01"), Ok(refused("exceeds_transfer"))),
            (14, refund(key(1), "3"), Ok(Decision::Done)),
            (14, refund(key(1), "3"), Ok(Decision::Done)),
            (14, refund(key(1), "2"), Err(Unacceptable::Conflict)),
            (15, refund(key(1), "2.01"), Ok(refused("exceeds_transfer"))),
            (16, refund(key(1), "2"), Ok(Decision::Done)),
            (17, refund(key(1), "0.01"), Ok(refused("exceeds_transfer"))),
            (18, refund(key(1), "0"), Err(Unacceptable::Field("amount"))),
        ];
        for (number, request, expected) in table {
            assert_eq!(book.refund(key(number), &request, None), expected, "refund {number}");
            check_nothing_appeared(&book);
        }
        assert_eq!(balances(&book), ("10".to_owned(), "0".to_owned()));
    }

    #[test]
    fn refund_refused_when_the_receiver_spent_the_money() {
        let mut book = book();
        book.transfer(key(1), &request("payer", "holding", "5"), NOW, None).unwrap();
        book.open_account("merchant", money("0"), "EUR").unwrap();
        book.transfer(key(2), &request("holding", "merchant", "4"), NOW, None).unwrap();
        assert_eq!(book.refund(key(3), &refund(key(1), "5"), None), Ok(refused("insufficient_funds")));
        assert_eq!(book.transfers[&key(1)].refunded, Decimal::ZERO);
    }

    #[test]
    fn injected_refusal_is_for_good() {
        let mut book = book();
        let wanted = request("payer", "holding", "5");
        assert_eq!(
            book.transfer(key(1), &wanted, NOW, Some("fraud_suspected")),
            Ok(refused("fraud_suspected"))
        );
        assert_eq!(book.transfer(key(1), &wanted, NOW, None), Ok(refused("fraud_suspected")));
        assert_eq!(book.cancel(key(1)), Ok(refused("fraud_suspected")));
    }

    #[test]
    fn unacceptable_requests_leave_the_key_unused() {
        let mut book = book();
        let negative = request("payer", "holding", "-1");
        let fine_grained = request("payer", "holding", "0.00001");
        for bad in [negative, fine_grained] {
            assert_eq!(book.transfer(key(1), &bad, NOW, None), Err(Unacceptable::Field("amount")));
        }
        let lower = TransferRequest { currency: "eur".to_owned(), ..request("payer", "holding", "1") };
        assert_eq!(book.transfer(key(1), &lower, NOW, None), Err(Unacceptable::Field("currency")));
        assert_eq!(book.status(key(1)), None);
        assert_eq!("12".parse::<Key>(), Err(Unacceptable::Key));
    }

    #[test]
    fn book_survives_a_round_trip_through_json() {
        let mut book = book();
        book.transfer(key(1), &request("payer", "holding", "5"), NOW, None).unwrap();
        book.cancel(key(2)).unwrap();
        book.refund(key(3), &refund(key(1), "7"), None).unwrap();
        let text = serde_json::to_string(&book).unwrap();
        assert_eq!(serde_json::from_str::<Book>(&text).unwrap(), book);
    }
}
