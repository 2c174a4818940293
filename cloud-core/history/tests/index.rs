//! The index finds what the whole journal says, whenever it was killed, and is built again when it is damaged.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

#[path = "../../flows/tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::LazyLock;

use cloud_core_flows::admin::AdminCommand;
use cloud_core_flows::event::{Event, Record};
use cloud_core_flows::payment::ChipPayment;
use cloud_core_history::{Cursor, Flow, History, HistoryError, IndexError, Party, Sizes};
use common::family::{categories, eur, family};
use common::{World, chain, limits, who};
use proptest::prelude::*;
use schemas::ids::{MessageId, PaymentId};
use schemas::message::{
    ChildAnswer, Down, OwnPayment, PaymentOrder, PaymentState, PromptAnswer, SuggestionAnswer, Up,
};
use schemas_journal::{Disk, Journal, JournalLimits, MemoryDisk, Position, Records, for_each_record};
use tempfile::TempDir;

/// Many spans of many pages, from a small journal.
const SIZES: Sizes = Sizes { span_pairs: 64, page_pairs: 4 };

/// A family that pays in every way; then all of it leaves memory; then it pays once more. Power-cut safe, as synced.
static PLAYED: LazyLock<MemoryDisk> = LazyLock::new(|| {
    let mut w = family();
    w.restores_after_each_input = false;
    deposit(&mut w, "ann", 10_000);
    for round in 0..6_u8 {
        chip_payments(&mut w, round * 4);
        child_payments(&mut w, 100 + round * 4);
        w.pass(24 * 3_600_000);
    }
    own_payments(&mut w);
    w.pass(w.deadlines.retention_ms + 1);
    assert_eq!(w.driver.cloud().payments().count(), 0, "all have left memory");
    w.connect_all();
    chip_payments(&mut w, 200);
    w.flush();
    w.disk.fork()
});

fn deposit(w: &mut World, person: &str, minor: u64) {
    let (person, amount, reference) = (who(person), eur(minor), "more".to_owned());
    w.admin(AdminCommand::Deposit { person, amount, reference }).unwrap();
}

fn chip_payments(w: &mut World, key: u8) {
    let delivered = w.commanded("ann", key);
    w.take_command();
    w.report(delivered, schemas::message::Outcome::Done, 1);
    let failed = w.commanded("bob", key + 1);
    w.take_command();
    w.report(failed, schemas::message::Outcome::Failed, 0);
    let cancelled = w.begin("ann", key + 2);
    w.cancel("ann", key + 3, cancelled);
    ["ann", "bob", "till", "chip", "vend"].iter().for_each(|name| drop(w.fetch(name)));
}

fn child_payments(w: &mut World, key: u8) {
    for (number, answer) in
        [Some(ChildAnswer::Confirm), Some(ChildAnswer::Reject), None].into_iter().enumerate()
    {
        let key = key + u8::try_from(number).unwrap();
        let order = PaymentOrder::deduction("mia".parse().unwrap(), eur(50), categories(&["books"]));
        let asked = w.request("dad", key, Up::PaymentOrder(order)).payment.unwrap();
        if let Some(answer) = answer {
            let said = PromptAnswer { payment: asked, answer, position: None, identified: None };
            w.say("piggy", Up::PaymentPrompt(said)).unwrap();
        }
        ["dad", "piggy"].iter().for_each(|name| drop(w.fetch(name)));
    }
}

fn own_payments(w: &mut World) {
    let own = |minor| OwnPayment {
        amount: eur(minor),
        payee: "merchant/shop".parse().unwrap(),
        categories: categories(&["toys"]),
        note: None,
    };
    deposit(w, "mum", 499);
    w.request("mum", 1, Up::OwnPayment(own(100))).payment.unwrap();
    let suggested = w.request("mum", 2, Up::OwnPayment(own(500))).payment.unwrap();
    let child = Some("leo".parse().unwrap());
    let through = Up::SuggestionAnswer(SuggestionAnswer { payment: suggested, child });
    assert!(w.request("mum", 3, through).payment.is_some_and(|payment| payment != suggested));
    w.fetch("mum");
}

/// Every record, as the journal has it.
fn all_records(disk: &MemoryDisk) -> Vec<(Position, Vec<u8>)> {
    let mut records = Vec::new();
    for_each_record(disk, |position, _, bytes| records.push((position, bytes.to_vec()))).unwrap();
    records
}

/// The story of a payment, out of these records: every one that has its id, and what became of messages that do.
fn story<'a>(
    payment: PaymentId,
    records: impl IntoIterator<Item = &'a (Position, Vec<u8>)>,
) -> Vec<Position> {
    let mut messages = BTreeSet::<MessageId>::new();
    let mut story = Vec::new();
    for (position, bytes) in records {
        let event = Record::decode(bytes).unwrap().event;
        let names = bytes.windows(16).any(|window| window == payment.0);
        match &event {
            Event::Queued { message, .. } if names => drop(messages.insert(message.message)),
            Event::Cleared { message, .. } | Event::Withdrawn { message, .. }
                if messages.contains(message) => {}
            _ if names => {}
            _ => continue,
        }
        story.push(*position);
    }
    story
}

fn found_story(history: &History<MemoryDisk>, payment: PaymentId) -> Result<Vec<Position>, HistoryError> {
    let mut near = Vec::new();
    history.for_each_record_near(payment, |position, bytes| {
        near.push((position, bytes.to_vec()));
        true
    })?;
    Ok(story(payment, &near))
}

fn payments(disk: &MemoryDisk) -> Vec<PaymentId> {
    let opened = |(_, bytes): &(Position, Vec<u8>)| match Record::decode(bytes).unwrap().event {
        Event::PaymentOpened(payment) => Some(payment.id),
        Event::ChildPaymentOpened(payment) => Some(payment.id),
        Event::OwnPaymentOpened(payment) => Some(payment.id),
        _ => None,
    };
    all_records(disk).iter().filter_map(opened).collect()
}

/// It knows what the whole journal says, of every payment.
fn check(history: &History<MemoryDisk>, disk: &MemoryDisk) -> Result<(), HistoryError> {
    let records = all_records(disk);
    assert_eq!(history.position().value(), u64::try_from(records.len()).unwrap());
    for payment in payments(disk) {
        assert_eq!(found_story(history, payment)?, story(payment, &records), "{payment}");
        assert_eq!(history.payment(payment)?.map(|found| found.payment), Some(payment));
    }
    Ok(())
}

fn open(directory: &Path, disk: &MemoryDisk) -> Result<History<MemoryDisk>, HistoryError> {
    History::open(directory, disk.clone(), SIZES)
}

fn end_of(disk: &MemoryDisk) -> Position {
    all_records(disk).last().unwrap().0
}

fn copy_of(directory: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    copy(directory, &to.path().join("index"));
    to
}

#[test]
fn every_story_of_the_journal_is_found_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut history = open(directory.path(), &PLAYED).unwrap();
    history.advance(end_of(&PLAYED), u64::MAX).unwrap();
    check(&history, &PLAYED).unwrap();
    assert!(payments(&PLAYED).len() > 40);
    let nobody = PaymentId([9; 16]);
    assert_eq!(found_story(&history, nobody).unwrap(), []);
    assert_eq!(history.payment(nobody).unwrap(), None);
    // Most of it is in sled, not in the last span.
    drop(history);
    assert!(open(directory.path(), &PLAYED).unwrap().position().value() > end_of(&PLAYED).value() * 9 / 10);
}

/// Newest first, page by page, each as it ended.
#[test]
fn payments_of_a_person_and_of_a_merchant_are_listed_newest_first_and_go_on_at_the_cursor() {
    let directory = tempfile::tempdir().unwrap();
    let mut history = open(directory.path(), &PLAYED).unwrap();
    history.advance(end_of(&PLAYED), u64::MAX).unwrap();
    let person = |name: &str| Party::Person(who(name));
    let all = |party: &Party, at_once: usize| {
        let (mut rows, mut before) = (Vec::new(), None::<Cursor>);
        loop {
            let page = history.payments_of(party, before, at_once).unwrap();
            before = page.last().map(|(cursor, _)| cursor.to_string().parse().unwrap());
            if page.is_empty() {
                return rows;
            }
            rows.extend(page.into_iter().map(|(_, row)| row));
        }
    };
    let anns = all(&person("ann"), 1_000);
    assert_eq!(anns.len(), 14);
    assert!(anns.is_sorted_by_key(|row| std::cmp::Reverse(row.opened_at)));
    let ended = |state| anns.iter().filter(|row| row.state == Some(state)).count();
    assert_eq!((ended(PaymentState::Delivered), ended(PaymentState::Cancelled)), (7, 7));
    assert!(anns.iter().all(|row| row.payer == who("ann") && row.payee == "merchant/shop"));
    for at_once in [1, 2, 5] {
        assert_eq!(all(&person("ann"), at_once), anns);
    }
    let of_dad = all(&person("dad"), 7);
    assert_eq!(of_dad, all(&person("mia"), 3), "dad ordered all that mia was asked");
    let states: BTreeSet<_> = of_dad.iter().filter_map(|row| row.state).collect();
    assert_eq!(states, [PaymentState::Settled, PaymentState::Rejected, PaymentState::Expired].into());
    let flows: Vec<_> = all(&person("mum"), 9).iter().map(|row| row.flow).collect();
    assert_eq!(flows, [Flow::Child, Flow::Own, Flow::Own]);
    let shop = Party::Merchant("acme".parse().unwrap(), "shop".parse().unwrap());
    assert_eq!(all(&shop, 10).len(), 7 * 3 + 3);
    assert_eq!(all(&Party::Person("other/ann".parse().unwrap()), 10), []);
}

/// What the state has of a payment in memory is what its row says.
#[test]
fn a_row_says_what_the_core_says_of_payments_in_memory() {
    let mut cloud = cloud_core_flows::Cloud::default();
    Journal::open(PLAYED.fork(), limits(), chain(), &mut cloud).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut history = open(directory.path(), &PLAYED).unwrap();
    history.advance(end_of(&PLAYED), u64::MAX).unwrap();
    let known: Vec<&ChipPayment> = cloud.payments().collect();
    assert_eq!(known.len(), 3);
    for payment in known {
        let row = history.payment(payment.id).unwrap().unwrap();
        assert_eq!((row.state, row.paid.minor), (Some(payment.state()), payment.paid_minor));
        assert_eq!((row.opened_at, row.amount), (payment.opened_at, payment.amount));
    }
}

/// Another journal, one that was cut, and one that was taken back: the bookmark is not there.
#[test]
fn an_index_that_is_ahead_or_of_another_journal_is_refused_and_built_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut history = open(directory.path(), &PLAYED).unwrap();
    history.advance(end_of(&PLAYED), u64::MAX).unwrap();
    drop(history);
    let cut = MemoryDisk::new();
    schemas_journal::copy(&*PLAYED, &cut, Position::new(200)).unwrap().unwrap();
    let foreign = |disk: &MemoryDisk| {
        let refused = open(directory.path(), disk).err().expect("refused");
        assert!(matches!(refused, HistoryError::Index(IndexError::Foreign(_))), "{refused}");
        assert!(refused.is_of_index());
    };
    foreign(&cut);
    // It went on otherwise: as many records, another hash.
    let mut nothing = Records(|_, _: &[u8]| {});
    let mut journal = Journal::open(cut.clone(), limits(), chain(), &mut nothing).unwrap();
    let at = Record::decode(&all_records(&cut).last().unwrap().1).unwrap().at;
    let other = Record { at, event: Event::Opened, by: None }.encode();
    for _ in 0..end_of(&PLAYED).value() {
        if let Some(spare) = journal.spare_job() {
            journal.handle_spare(spare.run(&cut)).unwrap();
        }
        journal.append(&[&other]).unwrap();
    }
    journal.sync().unwrap();
    foreign(&cut);
    fs::remove_dir_all(directory.path()).unwrap();
    let mut history = open(directory.path(), &cut).unwrap();
    history.advance(end_of(&cut), u64::MAX).unwrap();
    check(&history, &cut).unwrap();
}

/// The same records in a journal of several segments.
fn in_small_segments() -> MemoryDisk {
    let sizes = JournalLimits {
        record_max_bytes: 4 << 10,
        frame_max_bytes: 8 << 10,
        segment_bytes: 32 << 10,
        ..limits()
    };
    let (disk, mut nothing) = (MemoryDisk::new(), Records(|_, _: &[u8]| {}));
    let mut journal = Journal::open(disk.clone(), sizes, chain(), &mut nothing).unwrap();
    for records in all_records(&PLAYED).chunks(3) {
        if let Some(spare) = journal.spare_job() {
            journal.handle_spare(spare.run(&disk)).unwrap();
        }
        let records: Vec<&Vec<u8>> = records.iter().map(|(_, bytes)| bytes).collect();
        journal.append(&records).unwrap();
        journal.sync().unwrap();
    }
    disk
}

/// Segments that were moved to an archive are left out; nothing fails.
#[test]
fn what_is_in_archived_segments_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let disk = in_small_segments();
    let mut history = open(directory.path(), &disk).unwrap();
    history.advance(end_of(&disk), u64::MAX).unwrap();
    check(&history, &disk).unwrap();
    disk.remove("journal-00000001.seg").unwrap();
    let ids = payments(&PLAYED);
    let (first, last) = (ids.first().unwrap(), ids.last().unwrap());
    assert_eq!(history.payment(*first).unwrap(), None);
    assert_eq!(history.payment(*last).unwrap().unwrap().payment, *last);
    let anns = history.payments_of(&Party::Person(who("ann")), None, 100).unwrap();
    assert!(!anns.is_empty() && anns.len() < 14, "{}", anns.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// However often it is killed, and wherever: what it finds is what the whole journal says. A kill leaves the files as
    /// they are at that moment.
    #[test]
    fn killed_at_any_point_it_goes_on_from_what_is_there(steps in prop::collection::vec((1_u64..400, any::<bool>()), 1..12)) {
        let (end, mut directory) = (end_of(&PLAYED), tempfile::tempdir().unwrap());
        let mut history = open(&directory.path().join("index"), &PLAYED).unwrap();
        for (records, is_killed) in steps {
            history.advance(end, records).unwrap();
            if is_killed {
                let left = copy_of(&directory.path().join("index"));
                drop(history);
                directory = left;
                history = open(&directory.path().join("index"), &PLAYED).unwrap();
            }
        }
        history.advance(end, u64::MAX).unwrap();
        check(&history, &PLAYED).unwrap();
    }

    /// A damaged index says so, by an error or a panic of the database, or still finds everything; it never finds less.
    #[test]
    fn damage_is_noticed_or_does_no_harm_and_it_is_built_again(file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), cut in any::<bool>()) {
        let directory = tempfile::tempdir().unwrap();
        let index = directory.path().join("index");
        let mut history = open(&index, &PLAYED).unwrap();
        history.advance(end_of(&PLAYED), u64::MAX).unwrap();
        drop(history);
        let files: Vec<_> = fs::read_dir(&index).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
        let damaged = &files[file.index(files.len())];
        let mut bytes = fs::read(damaged).unwrap();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 0x55 }
            fs::write(damaged, &bytes).unwrap();
        }
        let asked = catch_unwind(AssertUnwindSafe(|| -> Result<(), HistoryError> {
            let mut history = open(&index, &PLAYED)?;
            history.advance(end_of(&PLAYED), u64::MAX)?;
            check(&history, &PLAYED)
        }));
        if let Ok(Err(error)) = &asked {
            prop_assert!(error.is_of_index(), "{error}");
        }
        if !matches!(asked, Ok(Ok(()))) {
            let _ = fs::remove_dir_all(&index);
            let mut history = open(&index, &PLAYED).unwrap();
            history.advance(end_of(&PLAYED), u64::MAX).unwrap();
            check(&history, &PLAYED).unwrap();
        }
    }
}

/// What a story is made of stays what it was when messages are told in other ways.
#[test]
fn messages_that_are_owed_name_their_payment() {
    let records = all_records(&PLAYED);
    let kinds: BTreeSet<_> = records
        .iter()
        .filter_map(|(_, bytes)| match Record::decode(bytes).unwrap().event {
            Event::Queued { message, .. } => {
                Down::decode(message.kind, &message.payload).ok().map(|said| said.body.kind())
            }
            _ => None,
        })
        .collect();
    assert!(kinds.len() >= 7, "the journal of these tests has most of them: {kinds:?}");
}
