//! CBOR: what is written is read back, what was tampered with is refused, and the journal's format is frozen.

mod common;

use cloud_core_ledger::{
    BalanceLimit, Balancing, Event, InvariantViolation, Ledger, Movement, OpenAccount, Reason, Transfer,
    TransferId, TrialBalance,
};
use common::{ASSET, BANK, Bench, CLOSED, EUR, SHOP, WALLET, post, post_pending, reserve};
use serde_cbor::Value;

fn busy() -> Bench {
    let mut bench = Bench::new();
    bench.record(&[reserve(u128::MAX, WALLET, SHOP, 300, Some(50))], 5);
    bench.record(&[reserve(3, WALLET, SHOP, 300, None).with_code(9).with_user_data(1 << 100)], 5);
    bench.record(&[post_pending(4, 3, Some(7))], 6);
    bench.record(&[reserve(5, WALLET, SHOP, 1, Some(1))], 7);
    bench.expire(8);
    assert!(bench.submit(&[post(6, SHOP, ASSET, 1), post(7, BANK, SHOP, 1)], 9).is_err());
    bench.keep(&[Event::TransfersRetired { ids: vec![TransferId(1)] }]);
    bench
}

#[test]
fn state_and_events_survive_cbor() {
    let bench = busy();
    let bytes = serde_cbor::to_vec(&bench.ledger).expect("encodes");
    let read: Ledger = serde_cbor::from_slice(&bytes).expect("decodes");
    assert_eq!(read, bench.ledger);
    assert_eq!(read.next_expiry(), Some(55), "the order of expiry is rebuilt");

    let bytes = serde_cbor::to_vec(&bench.journal).expect("encodes");
    let journal: Vec<Event> = serde_cbor::from_slice(&bytes).expect("decodes");
    assert_eq!(journal, bench.journal);
}

/// The journal's format: when this fails, old journals no longer read. Add a variant and a line instead of changing one.
#[test]
fn event_bytes_are_frozen() {
    let golden: Vec<&str> = include_str!("golden/events.hex").lines().collect();
    let events = one_of_each();
    for (index, event) in events.iter().enumerate() {
        let bytes = serde_cbor::to_vec(event).expect("encodes");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Some(&hex.as_str()), golden.get(index), "line {index}: {event:?}");
        assert_eq!(&serde_cbor::from_slice::<Event>(&bytes).expect("decodes"), event);
    }
    assert_eq!(events.len(), golden.len());
}

fn one_of_each() -> Vec<Event> {
    let movement = Movement::new(BANK, WALLET, 250, EUR);
    let transfers = [
        Transfer::post(TransferId(0x0102), movement.balancing(Balancing::Debit)),
        Transfer::post(TransferId(u128::MAX), movement.balancing(Balancing::Credit)),
        Transfer::reserve(TransferId(3), movement, Some(30_000)).with_code(7).with_user_data(9),
        Transfer::reserve(TransferId(4), movement, None),
        Transfer::post_pending(TransferId(5), TransferId(3), Some(200)),
        Transfer::post_pending(TransferId(6), TransferId(4), None),
        Transfer::void_pending(TransferId(7), TransferId(4)),
    ];
    let limits = [
        BalanceLimit::Unlimited,
        BalanceLimit::DebitsMustNotExceedCredits,
        BalanceLimit::CreditsMustNotExceedDebits,
    ];
    let mut events: Vec<Event> = limits
        .map(|limit| OpenAccount { id: BANK, currency: EUR, code: 7, limit })
        .map(|account| Event::AccountOpened { account, opened_at_ms: 1 })
        .to_vec();
    events.push(Event::AccountClosed { id: BANK, closed_at_ms: 2 });
    events.extend(transfers.iter().cloned().map(|transfer| Event::TransferRecorded {
        transfer,
        amount: 250,
        recorded_at_ms: 1_000,
    }));
    events.push(Event::TransferFailed {
        transfer: transfers[6].clone(),
        reason: Reason::PendingExpired,
        failed_at_ms: 3,
    });
    events.push(Event::ReservationExpired { id: TransferId(3), expired_at_ms: 4 });
    events.push(Event::TransfersRetired { ids: vec![TransferId(3), TransferId(4)] });
    events
}

/// Nothing is read that was not written: unknown and repeated fields are refused, ids have 16 bytes.
#[test]
fn malformed_events_are_refused() {
    let closed = Event::AccountClosed { id: BANK, closed_at_ms: 2 };
    let sound = serde_cbor::value::to_value(&closed).expect("encodes");
    let cases: [fn(&mut Value); 3] = [
        |fields| {
            let Value::Map(map) = fields else { panic!("not a map") };
            map.insert(Value::Text("note".into()), Value::Null);
        },
        |fields| *field(fields, "id") = Value::Bytes(vec![1; 15]),
        |fields| *field(fields, "id") = Value::Bytes(vec![1; 17]),
    ];
    for (index, change) in cases.into_iter().enumerate() {
        let mut event = sound.clone();
        change(field(&mut event, "account_closed"));
        let bytes = serde_cbor::to_vec(&event).expect("encodes");
        assert!(serde_cbor::from_slice::<Event>(&bytes).is_err(), "case {index}");
    }
    let mut repeated = serde_cbor::to_vec(&closed).expect("encodes");
    let fields = repeated.iter().position(|byte| *byte == 0xa2).expect("a map of two");
    repeated[fields] = 0xa3;
    let last = repeated.len() - "\x6cclosed_at_ms\x02".len();
    repeated.extend_from_within(last..);
    let error = serde_cbor::from_slice::<Event>(&repeated).expect_err("repeats a field").to_string();
    assert!(error.contains("duplicate field"), "{error}");
}

/// `check` finds each fault that a tampered snapshot can hold, so reading it is refused.
#[test]
fn tampered_state_is_refused() {
    type Tamper = fn(&mut Value);
    let cases: [(Tamper, &str); 14] = [
        (|ledger| *field(row(ledger, "accounts", 0), "debits_posted") = Value::Integer(999), "currency 978"),
        (|ledger| *field(row(ledger, "accounts", 1), "debits_pending") = Value::Integer(0), "currency 978"),
        (|ledger| *field(row(ledger, "accounts", 0), "closed_at_ms") = Value::Integer(1), "is closed but"),
        (
            |ledger| {
                *field(row(ledger, "accounts", 0), "limit") =
                    Value::Text("debits_must_not_exceed_credits".into());
            },
            "beyond its limit",
        ),
        (|ledger| *field(row(ledger, "accounts", 2), "currency") = Value::Integer(1), "currency 1:"),
        (|ledger| repeat(ledger, "accounts"), "lists account 00000000000000000000000000000001 twice"),
        (|ledger| repeat(ledger, "records"), "lists transfer 00000000000000000000000000000003 twice"),
        (|ledger| repeat(ledger, "failures"), "lists transfer 00000000000000000000000000000006 twice"),
        (
            |ledger| *field(row(ledger, "records", 0), "amount") = Value::Integer(0),
            "does not fit its request",
        ),
        (
            |ledger| *field(row(ledger, "records", 1), "amount") = Value::Integer(8),
            "does not fit its request",
        ),
        (
            |ledger| {
                let posted = field(field(row(ledger, "records", 0), "status"), "posted");
                *field(posted, "amount") = Value::Integer(301);
            },
            "does not fit its request",
        ),
        (
            |ledger| {
                let kind = field(field(row(ledger, "records", 2), "transfer"), "kind");
                *field(field(field(kind, "reserve"), "movement"), "currency") = Value::Integer(1);
            },
            "does not exist in its currency",
        ),
        (
            |ledger| *field(row(ledger, "failures", 0), "reason") = Value::Text("ledger_full".into()),
            "a reason that is not remembered",
        ),
        (
            |ledger| *field(row(ledger, "records", 0), "status") = Value::Text("expired".into()),
            "does not fit its request",
        ),
    ];
    let sound = serde_cbor::value::to_value(&busy().ledger).expect("encodes");
    assert!(read(&sound).is_ok());
    for (index, (tamper, expected)) in cases.into_iter().enumerate() {
        let mut ledger = sound.clone();
        tamper(&mut ledger);
        let error = read(&ledger).expect_err("was tampered with").to_string();
        assert!(error.contains(expected), "case {index}: {error}");
    }
}

/// Events that no ledger decided are applied without panic, and the audit sees them.
#[test]
fn check_sees_events_that_were_never_decided() {
    let bench = busy();
    let mut one_sided = bench.ledger.clone();
    let half = post(50, BANK, common::NOBODY, 5);
    one_sided.evolve(&Event::TransferRecorded { transfer: half, amount: 5, recorded_at_ms: 9 });
    let totals =
        TrialBalance { debits_pending: 300, debits_posted: 1012, credits_pending: 300, credits_posted: 1007 };
    assert_eq!(one_sided.check(), Err(InvariantViolation::Unbalanced { currency: EUR, totals }));

    let mut twice = bench.ledger.clone();
    let again = reserve(3, WALLET, SHOP, 300, None);
    twice.evolve(&Event::TransferRecorded { transfer: again.clone(), amount: 300, recorded_at_ms: 9 });
    twice.evolve(&Event::TransferRecorded { transfer: again, amount: 300, recorded_at_ms: 9 });
    assert!(matches!(twice.check(), Err(InvariantViolation::PendingNotReserved { id: WALLET, .. })));

    let mut forgotten = bench.ledger.clone();
    forgotten.evolve(&Event::TransfersRetired { ids: vec![TransferId(u128::MAX)] });
    assert_eq!(forgotten.check(), Err(InvariantViolation::ExpiriesWrong));

    let mut both = bench.ledger.clone();
    both.evolve(&Event::TransferRecorded { transfer: post(6, BANK, SHOP, 1), amount: 1, recorded_at_ms: 9 });
    assert_eq!(both.check(), Err(InvariantViolation::HappenedAndFailed { id: TransferId(6) }));

    let mut closed = bench.ledger.clone();
    closed.evolve(&Event::TransferRecorded {
        transfer: post(60, BANK, CLOSED, 1),
        amount: 1,
        recorded_at_ms: 9,
    });
    assert_eq!(closed.check(), Err(InvariantViolation::ClosedNotEmpty { id: CLOSED }));

    let mut overdrawn = bench.ledger.clone();
    overdrawn.evolve(&Event::TransferRecorded {
        transfer: post(60, SHOP, BANK, 8),
        amount: 8,
        recorded_at_ms: 9,
    });
    assert_eq!(overdrawn.check(), Err(InvariantViolation::BeyondLimit { id: SHOP }));
}

fn read(value: &Value) -> Result<Ledger, serde_cbor::Error> {
    serde_cbor::from_slice(&serde_cbor::to_vec(value).expect("encodes"))
}

fn field<'a>(value: &'a mut Value, name: &str) -> &'a mut Value {
    let Value::Map(map) = value else { panic!("not a map") };
    map.get_mut(&Value::Text(name.into())).expect("has the field")
}

fn rows<'a>(ledger: &'a mut Value, table: &str) -> &'a mut Vec<Value> {
    let Value::Array(rows) = field(ledger, table) else { panic!("not a list") };
    rows
}

fn row<'a>(ledger: &'a mut Value, table: &str, index: usize) -> &'a mut Value {
    &mut rows(ledger, table)[index]
}

fn repeat(ledger: &mut Value, table: &str) {
    let rows = rows(ledger, table);
    rows.push(rows[0].clone());
}
