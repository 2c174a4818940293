//! What a load test measures: how long each step took, how payments ended, what went wrong, and all of it second by
//! second. The engine fills it; the view and the report read it.

use std::time::SystemTime;

use hdrhistogram::Histogram;
use schemas::message::PaymentState;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::scenario::Faults;

/// One hour; what took longer counts as one hour.
const LATENCY_MOST_US: u64 = 3_600_000_000;
/// The longest scenario with its drain, and what a slow end may add; later seconds are in the sums only.
const SECONDS_MOST: usize = 86_400 + 2 * 3_600;

/// A plain enum whose cases are counted: each has a name for programs and a text for people.
macro_rules! counted {
    ($(#[$note:meta])* $name:ident { $($(#[$case_note:meta])* $case:ident = $code:literal, $text:literal;)* }) => {
        $(#[$note])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$case_note])* $case),* }

        impl $name {
            pub(crate) const ALL: &[Self] = &[$(Self::$case),*];
            const COUNT: usize = Self::ALL.len();

            /// For programs.
            pub(crate) fn code(self) -> &'static str {
                match self { $(Self::$case => $code),* }
            }

            /// For people.
            pub(crate) fn text(self) -> &'static str {
                match self { $(Self::$case => $text),* }
            }
        }
    };
}

counted! {
    /// A latency of its own, in microseconds. In an open loop the order counts from its intended beginning.
    Step {
        /// Payment information or order handed in, to the answer that names the payment.
        OrderToAccepted = "order_to_accepted", "order to accepted";
        /// When the person has read that the order is accepted, to the resulting message at the device: none if that was
        /// sooner.
        AcceptedToDevice = "accepted_to_device", "accepted to message at device";
        /// Handed in, to the final state at the person.
        OrderToEnd = "order_to_end", "order to end";
        /// A PUBLISH with QoS 1, to its PUBACK.
        Puback = "puback", "PUBLISH to PUBACK";
    }
}

counted! {
    /// How a payment ended, as its person was told.
    End {
        Delivered = "delivered", "delivered";
        DeliveredInPart = "delivered_in_part", "delivered in part";
        Settled = "settled", "settled from a child's account";
        Refunded = "refunded", "refunded";
        /// The reservation was released before money moved.
        Voided = "voided", "reservation released";
        Rejected = "rejected", "the child said no";
        Expired = "expired", "expired";
        Refused = "refused", "refused";
        Declined = "declined", "verification wrong";
        BankRefused = "bank_refused", "refused by the bank";
        Cancelled = "cancelled", "withdrawn";
        /// Outcome unknown or refund blocked: in the operator's queue.
        Operator = "operator", "left to the operator";
        /// Nobody was told an end before the drain was over.
        Unanswered = "unanswered", "no end in time";
    }
}

counted! {
    /// What went wrong beside the payments' own ends.
    ErrorKind {
        ConnectFailed = "connect_failed", "the connection could not be made";
        ConnectRefused = "connect_refused", "CONNACK refuses";
        /// Not one that the fault mix cut: those are [`Fault::Disconnect`].
        ConnectionLost = "connection_lost", "the broker closed the connection";
        PublishRefused = "publish_refused", "PUBACK refuses";
        Unreadable = "unreadable", "a message that cannot be read";
        Unexpected = "unexpected", "a message that nobody waits for";
        /// A payment that had ended for its person ends again, otherwise.
        SecondEnd = "second_end", "a second, different end of one payment";
        /// A payment that began more than 100 ms after its time: the generator is the limit, not the server.
        GeneratorLate = "generator_late", "the generator itself was late";
    }
}

counted! {
    /// What the fault mix has really done.
    Fault {
        Disconnect = "disconnect", "connections cut";
        DuplicateSend = "duplicate_send", "messages sent twice";
        Jam = "jam", "jams";
        Silence = "silence", "commands without an answer";
        Rejection = "rejection", "children's refusals";
    }
}

/// Everything measured so far.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    started: SystemTime,
    total: PerStep,
    /// Of the second that is running.
    current: PerStep,
    open: Second,
    payments_started: u64,
    ends: [u64; End::COUNT],
    errors: [u64; ErrorKind::COUNT],
    faults: [u64; Fault::COUNT],
    messages_sent: u64,
    messages_received: u64,
    seconds: Vec<Second>,
}

/// One second of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Second {
    /// From the first arrival, from 0.
    pub(crate) second: u32,
    /// 1, or more where the engine skipped the seconds before: what happened in them is counted here.
    pub(crate) covers_s: u32,
    pub(crate) started: u32,
    ends: [u32; End::COUNT],
    errors: [u32; ErrorKind::COUNT],
    /// Payments that had begun and not ended when the second was over.
    pub(crate) in_flight: u32,
    /// Of the core's process, where its id is known.
    pub(crate) resident_kb: Option<u64>,
    latencies: [Latency; Step::COUNT],
}

/// A step within one second. All 0 where it did not happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u32,
    pub(crate) p50_us: u32,
    pub(crate) p99_us: u32,
}

/// A step over the whole run, in microseconds. All 0 where it did not happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

impl Measured {
    /// `started` is the time of the first arrival.
    pub(crate) fn new(started: SystemTime) -> Self {
        Self {
            started,
            total: PerStep::with_digits(3),
            // Two digits: a second has few values, and four such histograms are cleared every second.
            current: PerStep::with_digits(2),
            open: Second::default(),
            payments_started: 0,
            ends: [0; End::COUNT],
            errors: [0; ErrorKind::COUNT],
            faults: [0; Fault::COUNT],
            messages_sent: 0,
            messages_received: 0,
            seconds: Vec::new(),
        }
    }

    /// A step took so long.
    pub(crate) fn record(&mut self, step: Step, micros: u64) {
        self.total.of_mut(step).saturating_record(micros);
        self.current.of_mut(step).saturating_record(micros);
    }

    /// A payment has begun.
    pub(crate) fn payment_started(&mut self) {
        self.payments_started += 1;
        self.open.started += 1;
    }

    /// A payment has ended.
    pub(crate) fn ended(&mut self, end: End) {
        self.ends[end as usize] += 1;
        self.open.ends[end as usize] += 1;
    }

    pub(crate) fn error(&mut self, kind: ErrorKind) {
        self.errors[kind as usize] += 1;
        self.open.errors[kind as usize] += 1;
    }

    /// The fault mix has struck.
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// So many PUBLISH packets went out and came in.
    pub(crate) fn messages(&mut self, sent: u64, received: u64) {
        self.messages_sent += sent;
        self.messages_received += received;
    }

    /// Closes the second that began `second` seconds after the start. What happened in a second that the engine skips
    /// counts in the next one, which says so.
    pub(crate) fn tick(&mut self, second: u32, in_flight: u64, resident_kb: Option<u64>) {
        let mut closed = std::mem::take(&mut self.open);
        closed.second = second;
        let before = self.seconds.last().map_or(0, |last| last.second.saturating_add(1));
        closed.covers_s = second.saturating_sub(before).saturating_add(1);
        closed.in_flight = clamped(in_flight);
        closed.resident_kb = resident_kb;
        for (step, latency) in Step::ALL.iter().zip(&mut closed.latencies) {
            let histogram = self.current.of_mut(*step);
            *latency = Latency {
                count: clamped(histogram.len()),
                p50_us: clamped(histogram.value_at_quantile(0.5)),
                p99_us: clamped(histogram.value_at_quantile(0.99)),
            };
            histogram.reset();
        }
        if self.seconds.len() < SECONDS_MOST {
            self.seconds.push(closed);
        }
    }

    /// The time of the first arrival.
    pub(crate) fn started(&self) -> SystemTime {
        self.started
    }

    /// Microseconds, of the whole run.
    pub(crate) fn histogram(&self, step: Step) -> &Histogram<u64> {
        self.total.of(step)
    }

    pub(crate) fn percentiles(&self, step: Step) -> Percentiles {
        let histogram = self.histogram(step);
        // A histogram gives the upper edge of a bucket, which may lie above the largest value.
        let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
        Percentiles {
            count: histogram.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max(),
        }
    }

    /// Every second that is over, in their order.
    pub(crate) fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    pub(crate) fn payments_started_total(&self) -> u64 {
        self.payments_started
    }

    pub(crate) fn payments_ended_total(&self) -> u64 {
        self.ends.iter().sum()
    }

    pub(crate) fn end_count(&self, end: End) -> u64 {
        self.ends[end as usize]
    }

    pub(crate) fn error_count(&self, kind: ErrorKind) -> u64 {
        self.errors[kind as usize]
    }

    pub(crate) fn errors_total(&self) -> u64 {
        self.errors.iter().sum()
    }

    pub(crate) fn fault_count(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }

    pub(crate) fn messages_sent_total(&self) -> u64 {
        self.messages_sent
    }

    pub(crate) fn messages_received_total(&self) -> u64 {
        self.messages_received
    }

    /// Everything that the fault mix does not explain, with its count: an empty list is a good run.
    pub(crate) fn unexplained(&self, faults: &Faults) -> Vec<(&'static str, u64)> {
        let ends = End::ALL.iter().filter(|end| !end.is_expected(faults));
        let ends = ends.map(|end| (end.text(), self.end_count(*end)));
        let errors = ErrorKind::ALL.iter().filter(|kind| !kind.is_expected(faults));
        let errors = errors.map(|kind| (kind.text(), self.error_count(*kind)));
        ends.chain(errors).filter(|(_, count)| *count > 0).collect()
    }
}

impl Serialize for Measured {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let since = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        map.serialize_entry("started_unix_ms", &since.as_millis())?;
        map.serialize_entry("payments_started", &self.payments_started)?;
        map.serialize_entry("messages_sent", &self.messages_sent)?;
        map.serialize_entry("messages_received", &self.messages_received)?;
        map.serialize_entry("ends", &Named::all(End::ALL, |end| (end.code(), self.end_count(end))))?;
        let errors = Named::all(ErrorKind::ALL, |kind| (kind.code(), self.error_count(kind)));
        map.serialize_entry("errors", &errors)?;
        let faults = Named::all(Fault::ALL, |fault| (fault.code(), self.fault_count(fault)));
        map.serialize_entry("faults", &faults)?;
        let steps = Named::all(Step::ALL, |step| (step.code(), self.percentiles(step)));
        map.serialize_entry("latencies", &steps)?;
        map.serialize_entry("seconds", &self.seconds)?;
        map.end()
    }
}

impl Second {
    pub(crate) fn end_count(&self, end: End) -> u32 {
        self.ends[end as usize]
    }

    /// Payments that ended in this second, in any way.
    pub(crate) fn ended(&self) -> u32 {
        self.ends.iter().sum()
    }

    pub(crate) fn error_count(&self, kind: ErrorKind) -> u32 {
        self.errors[kind as usize]
    }

    /// Of all kinds.
    pub(crate) fn errors(&self) -> u32 {
        self.errors.iter().sum()
    }

    pub(crate) fn latency(&self, step: Step) -> Latency {
        self.latencies[step as usize]
    }
}

impl Serialize for Second {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("second", &self.second)?;
        map.serialize_entry("covers_s", &self.covers_s)?;
        map.serialize_entry("started", &self.started)?;
        map.serialize_entry("ended", &self.ended())?;
        map.serialize_entry("errors", &self.errors())?;
        map.serialize_entry("in_flight", &self.in_flight)?;
        map.serialize_entry("resident_kb", &self.resident_kb)?;
        let ends = End::ALL.iter().filter(|end| self.end_count(**end) > 0);
        map.serialize_entry(
            "ends",
            &Named(ends.map(|end| (end.code(), self.end_count(*end))).collect::<Vec<_>>()),
        )?;
        let steps = Step::ALL.iter().filter(|step| self.latency(**step).count > 0);
        let steps = steps.map(|step| (step.code(), self.latency(*step)));
        map.serialize_entry("latencies", &Named(steps.collect::<Vec<_>>()))?;
        map.end()
    }
}

impl End {
    /// The end that a final state is, or `None` of a payment that goes on.
    pub(crate) fn of(state: PaymentState) -> Option<Self> {
        Some(match state {
            PaymentState::Delivered => Self::Delivered,
            PaymentState::DeliveredInPart => Self::DeliveredInPart,
            PaymentState::Settled => Self::Settled,
            PaymentState::Refunded => Self::Refunded,
            PaymentState::Voided => Self::Voided,
            PaymentState::Rejected => Self::Rejected,
            PaymentState::Expired => Self::Expired,
            PaymentState::Refused => Self::Refused,
            PaymentState::Declined => Self::Declined,
            PaymentState::BankRefused => Self::BankRefused,
            PaymentState::Cancelled => Self::Cancelled,
            PaymentState::Held | PaymentState::RefundBlocked | PaymentState::WrittenOff => Self::Operator,
            PaymentState::Checking
            | PaymentState::PendingVerification
            | PaymentState::Paying
            | PaymentState::BankUnknown
            | PaymentState::Delivering
            | PaymentState::Refunding
            | PaymentState::Prompting
            | PaymentState::Presenting => return None,
        })
    }

    /// Whether such a fault mix explains it.
    pub(crate) fn is_expected(self, faults: &Faults) -> bool {
        match self {
            Self::Delivered | Self::Settled => true,
            Self::DeliveredInPart => faults.jams_permille > 0,
            Self::Refunded | Self::Voided => faults.jams_permille + faults.silent_permille > 0,
            Self::Rejected => faults.rejects_permille > 0,
            Self::Expired => faults.disconnects_per_minute + faults.slow_readers > 0,
            Self::Operator => faults.silent_permille > 0,
            Self::Refused | Self::Declined | Self::BankRefused | Self::Cancelled | Self::Unanswered => false,
        }
    }
}

impl ErrorKind {
    /// Whether such a fault mix explains it.
    pub(crate) fn is_expected(self, faults: &Faults) -> bool {
        match self {
            // The broker may end a client that does not read, and may put off what is sent to it.
            Self::ConnectionLost | Self::PublishRefused => faults.slow_readers > 0,
            Self::ConnectFailed
            | Self::ConnectRefused
            | Self::Unreadable
            | Self::Unexpected
            | Self::SecondEnd
            | Self::GeneratorLate => false,
        }
    }
}

/// A histogram for each step.
#[derive(Debug, Clone)]
struct PerStep([Histogram<u64>; Step::COUNT]);

impl PerStep {
    fn with_digits(digits: u8) -> Self {
        let empty = Histogram::new_with_bounds(1, LATENCY_MOST_US, digits);
        Self(std::array::from_fn(|_| empty.clone().expect("the bounds are constants that the library takes")))
    }

    fn of(&self, step: Step) -> &Histogram<u64> {
        &self.0[step as usize]
    }

    fn of_mut(&mut self, step: Step) -> &mut Histogram<u64> {
        &mut self.0[step as usize]
    }
}

/// A map in the order of its enum.
struct Named<T>(Vec<(&'static str, T)>);

impl<T> Named<T> {
    fn all<E: Copy>(all: &[E], entry: impl Fn(E) -> (&'static str, T)) -> Self {
        Self(all.iter().map(|case| entry(*case)).collect())
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

fn clamped(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        Measured::new(SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn percentiles_are_those_of_the_values_within_a_thousandth() {
        let mut known = measured();
        (1..=10_000).for_each(|value| known.record(Step::OrderToEnd, value * 10));
        let found = known.percentiles(Step::OrderToEnd);
        let expected = [(found.p50_us, 50_000), (found.p90_us, 90_000), (found.p99_us, 99_000)];
        for (found, expected) in expected.into_iter().chain([(found.p999_us, 99_900)]) {
            assert!(found.abs_diff(expected) <= expected / 1_000, "{found} for {expected}");
        }
        assert_eq!(found.count, 10_000);
        assert!(found.max_us >= 100_000 && found.max_us <= 100_100, "{found:?}");
        assert_eq!(known.percentiles(Step::Puback), Percentiles::default());
        // An hour is the longest that is told apart.
        known.record(Step::Puback, u64::MAX);
        let longest = known.percentiles(Step::Puback).max_us;
        assert!(longest.abs_diff(LATENCY_MOST_US) < LATENCY_MOST_US / 500, "{longest}");
    }

    #[test]
    fn a_tick_closes_its_second_and_the_next_one_begins_empty() {
        let mut run = measured();
        run.payment_started();
        run.payment_started();
        run.record(Step::OrderToAccepted, 700);
        run.ended(End::Refunded);
        run.error(ErrorKind::ConnectionLost);
        run.tick(0, 1, Some(9_000));
        run.ended(End::Delivered);
        run.tick(2, 0, None);
        let [first, second] = run.seconds() else { panic!("{:?}", run.seconds()) };
        assert_eq!(
            (first.second, first.started, first.ended(), first.errors(), first.in_flight),
            (0, 2, 1, 1, 1)
        );
        assert_eq!((first.end_count(End::Refunded), first.resident_kb), (1, Some(9_000)));
        let latency = first.latency(Step::OrderToAccepted);
        assert!(latency.count == 1 && latency.p50_us.abs_diff(700) <= 7, "{latency:?}");
        assert_eq!((second.second, second.started, second.ended(), second.errors()), (2, 0, 1, 0));
        assert_eq!((first.covers_s, second.covers_s), (1, 2));
        assert_eq!(second.latency(Step::OrderToAccepted), Latency::default());
        assert_eq!((run.payments_started_total(), run.payments_ended_total(), run.errors_total()), (2, 2, 1));
    }

    #[test]
    fn what_the_fault_mix_explains_is_not_held_against_the_run() {
        let mut run = measured();
        run.ended(End::Delivered);
        assert_eq!(run.unexplained(&Faults::default()), []);
        run.ended(End::Refunded);
        run.error(ErrorKind::ConnectionLost);
        run.ended(End::Unanswered);
        let none = run.unexplained(&Faults::default());
        let expected = [("refunded", 1), ("no end in time", 1), ("the broker closed the connection", 1)];
        assert_eq!(none, expected);
        let faults = Faults { jams_permille: 1, slow_readers: 1, ..Faults::default() };
        assert_eq!(run.unexplained(&faults), [("no end in time", 1)]);
    }

    #[test]
    fn every_final_state_is_an_end_and_names_are_unique() {
        assert_eq!(End::of(PaymentState::Delivered), Some(End::Delivered));
        assert_eq!(End::of(PaymentState::RefundBlocked), Some(End::Operator));
        assert_eq!(End::of(PaymentState::Refunding), None);
        let codes =
            End::ALL.iter().map(|end| end.code()).chain(ErrorKind::ALL.iter().map(|kind| kind.code()));
        let codes: Vec<&str> = codes.chain(Step::ALL.iter().map(|step| step.code())).collect();
        let unique: std::collections::BTreeSet<&str> = codes.iter().copied().collect();
        assert_eq!(unique.len(), codes.len());
    }

    #[test]
    fn json_has_names_and_leaves_out_empty_parts_of_a_second() {
        let mut run = measured();
        run.payment_started();
        run.record(Step::Puback, 250);
        run.ended(End::Settled);
        run.tick(0, 0, None);
        let json = serde_json::to_value(&run).unwrap();
        assert_eq!(json["ends"]["settled"], 1);
        assert_eq!(json["errors"]["connect_failed"], 0);
        assert_eq!(json["latencies"]["puback"]["count"], 1);
        assert_eq!(json["seconds"][0]["ends"], serde_json::json!({"settled": 1}));
        assert_eq!(json["seconds"][0]["latencies"].as_object().unwrap().len(), 1);
        assert_eq!(json["started_unix_ms"], 0);
    }
}
