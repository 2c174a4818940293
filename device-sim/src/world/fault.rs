//! Everything that may go wrong in a world, and how often it does under one seed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::random::Random;

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $most:literal;)*) => {
        /// One thing that may go wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Fault { $($(#[doc = $doc])* #[serde(rename = $text)] $name,)* }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Fault] = &[$(Fault::$name,)*];

            /// For tables and traces.
            pub fn as_str(self) -> &'static str {
                match self { $(Fault::$name => $text,)* }
            }

            /// Its greatest rate in a thousand occasions.
            fn most_permille(self) -> u64 {
                match self { $(Fault::$name => $most,)* }
            }
        }
    };
}

faults! {
    /// The core dies at a step of THE order.
    CoreCrash = "core-crash", 12;
    /// The core loses its power soon after its journal went on in the next segment.
    SeamCrash = "seam-crash", 500;
    /// It stays away for longer than every deadline.
    CoreLongOutage = "core-long-outage", 250;
    /// A device dies at a step.
    DeviceCrash = "device-crash", 12;
    /// It stays away for longer than every deadline.
    DeviceLongOutage = "device-long-outage", 300;
    /// A connection breaks: a suffix of what is under way is lost, in each direction.
    Break = "break", 20;
    /// One side notices much later.
    HalfOpen = "half-open", 400;
    /// A 3.1.1 client repeats a publish on the same connection, marked as a duplicate.
    SendsDup = "sends-dup", 100;
    /// A client acknowledges what it has acknowledged before.
    AcknowledgesAgain = "acknowledges-again", 200;
    /// A client that could not connect waits long before it tries again.
    TriesLate = "tries-late", 900;
    /// A client publishes or listens where only others may.
    Trespass = "trespass", 20;
    /// A client sends what is no MQTT, and begins anew.
    Garbage = "garbage", 5;
    /// What a client sends takes long.
    SlowWriter = "slow-writer", 20;
    /// A client does not read for a while.
    SlowReader = "slow-reader", 60;
    /// A sync fails, of the core or of a device: the process must end and recover.
    SyncFails = "sync-fails", 8;
    /// A bit of what was synced is wrong when a process starts.
    BitFlips = "bit-flips", 300;
    /// The core's disk is full for a while.
    CoreDiskFull = "core-disk-full", 1000;
    /// A device's disk is full for a while.
    DeviceDiskFull = "device-disk-full", 1000;
    /// The wall clock of the core's machine is set, by minutes or hours.
    CoreClockSet = "core-clock-set", 1000;
    /// A terminal's clock is wrong by minutes or hours.
    TerminalClock = "terminal-clock", 300;
    /// A device's question for the time is lost.
    TimeLost = "time-lost", 600;
    /// A sync takes long.
    SlowDisk = "slow-disk", 100;
    /// A terminal acknowledges and loses what it got.
    TerminalLoses = "terminal-loses", 300;
    /// The same request again, under the same key.
    SendsTwice = "sends-twice", 400;
    /// The same key with other content.
    KeyReused = "key-reused", 200;
    /// The same payment information under a new key.
    NewKey = "new-key", 300;
    /// Two payers, one payment information.
    SharedInformation = "shared-information", 300;
    /// A payment information that was used before.
    Replayed = "replayed", 300;
    /// Signed with the chip's key, and never issued.
    Forged = "forged", 200;
    /// The payer withdraws.
    Cancel = "cancel", 400;
    /// A verification with another key, payee or amount.
    VerifiesWrong = "verifies-wrong", 250;
    /// A verification around its deadline.
    VerifiesLate = "verifies-late", 250;
    /// No verification.
    NeverVerifies = "never-verifies", 250;
    /// The merchant gives back.
    MerchantRefund = "merchant-refund", 700;
    /// Not enough money on the payer's account.
    Poor = "poor", 400;
    /// The chip's machine has a condition that refuses.
    NotReady = "not-ready", 300;
    /// The hardware delivers nothing and says so.
    ActFails = "act-fails", 500;
    /// The hardware delivers a part and says so.
    ActInPart = "act-in-part", 600;
    /// The hardware does not know what it did.
    ActUnknown = "act-unknown", 400;
    /// The hardware never comes back.
    ActHangs = "act-hangs", 300;
    /// The hardware comes back after it was given up.
    ActLate = "act-late", 500;
    /// The hardware says what is not so.
    ActLies = "act-lies", 300;
    /// The bank refuses the transfer.
    BankRefuses = "bank-refuses", 300;
    /// The bank refuses the refund.
    BankRefusesRefund = "bank-refuses-refund", 700;
    /// A request reaches the bank late.
    BankRequestLate = "bank-request-late", 500;
    /// A request is lost.
    BankRequestLost = "bank-request-lost", 500;
    /// An answer comes late.
    BankAnswerLate = "bank-answer-late", 500;
    /// An answer is lost.
    BankAnswerLost = "bank-answer-lost", 500;
    /// A request reaches the bank twice.
    BankRepeats = "bank-repeats", 500;
    /// The bank is away for long.
    BankOutage = "bank-outage", 1000;
    /// A device's clock is as wrong as its profile allows.
    ClockDrift = "clock-drift", 1000;
    /// An operator tries a refused refund again at once.
    RefundRetried = "refund-retried", 1000;
    /// An operator revokes a device.
    Revoked = "revoked", 1000;
    /// A device is enrolled anew, with an empty disk.
    Replaced = "replaced", 1000;
    /// A child says no.
    ChildRejects = "child-rejects", 400;
    /// A child presses both buttons.
    ChildContradicts = "child-contradicts", 400;
    /// A child does not answer.
    ChildSilent = "child-silent", 250;
    /// A child answers when the time is nearly or just over.
    ChildLate = "child-late", 400;
    /// Somebody who guards nobody orders for a child, or sets its limits.
    StrangerOrders = "stranger-orders", 500;
    /// A piggy bank answers what another one was asked.
    AnswersForOther = "answers-for-other", 60;
    /// A connection breaks just before a piggy bank's PUBACK for a prompt.
    PromptPubackLost = "prompt-puback-lost", 400;
    /// A child uses another piggy bank from now on.
    PiggyBankSwapped = "piggy-bank-swapped", 1000;
    /// A guardian is no guardian any more.
    GuardianshipEnded = "guardianship-ended", 1000;
    /// Nobody scans a code.
    CodeUnused = "code-unused", 400;
    /// A code is scanned when it is about to expire, or has just done so.
    ScannedLate = "scanned-late", 400;
    /// A code is scanned a second time.
    ScannedAgain = "scanned-again", 500;
    /// A code is scanned at any terminal, or by somebody who is none.
    ScannedElsewhere = "scanned-elsewhere", 500;
    /// A terminal hands in what nobody who may has signed.
    CodeChanged = "code-changed", 500;
    /// A terminal asks for more than the code says.
    WrongAmount = "wrong-amount", 300;
    /// The piggy bank was to make sure who says yes, and could not.
    NotIdentified = "not-identified", 1000;
    /// Nobody answers whether to pay through a child.
    SuggestionIgnored = "suggestion-ignored", 400;
    /// The answer comes when the time is nearly or just over.
    SuggestionLate = "suggestion-late", 1000;
    /// Somebody chooses who was not suggested.
    NotSuggested = "not-suggested", 1000;
    /// A suggestion is answered a second time, otherwise perhaps.
    SuggestionAnsweredAgain = "suggestion-answered-again", 500;
    /// A child tells its wish to somebody who is no guardian of it.
    WishToStranger = "wish-to-stranger", 400;
    /// A child does not wish for it any more.
    WishTakenBack = "wish-taken-back", 700;
    /// A guardian says no to a wish.
    WishDeclined = "wish-declined", 700;
    /// A guardian does nothing about a wish.
    WishIgnored = "wish-ignored", 400;
    /// A wish is ordered or declined a second time, or by somebody else.
    WishAnsweredAgain = "wish-answered-again", 800;
}

/// How often each fault strikes, in a thousand occasions.
#[derive(Debug, Clone, Default)]
pub(super) struct Mix {
    drawn: BTreeMap<Fault, u64>,
    muted: BTreeSet<Fault>,
}

/// From its name.
impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|fault| fault.as_str() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|fault| fault.as_str()).collect();
            format!("no such fault; choose from {}", names.join(", "))
        })
    }
}

impl Fault {
    fn is_of_families(self) -> bool {
        self >= Fault::ChildRejects
    }
}

impl Mix {
    /// Each seed draws its own: some worlds are calm, some have one trouble, some have all of them.
    pub(super) fn draw(seed: u64, plan: &mut Random) -> Self {
        let share = [0, 80, 150, 250, 400, 600, 1000][plan.index(7)];
        let mut mix = BTreeMap::new();
        for fault in Fault::ALL {
            let mut random = Random::named(seed, &format!("mix/{}", fault.as_str()));
            // Families are few: they do more.
            let share = if fault.is_of_families() && share > 0 { share.max(500) } else { share };
            if random.chance(share) {
                let most = fault.most_permille();
                mix.insert(*fault, random.range(most / 8 + 1, most));
            }
        }
        Self { drawn: mix, muted: BTreeSet::new() }
    }

    /// These do not strike. The rest of the world stays as it was drawn with them.
    pub(super) fn mute(&mut self, faults: &BTreeSet<Fault>) {
        self.muted.extend(faults);
    }

    pub(super) fn permille(&self, fault: Fault) -> u64 {
        if self.muted.contains(&fault) { 0 } else { self.drawn.get(&fault).copied().unwrap_or(0) }
    }

    /// Whether it may strike in this world, muted or not.
    pub(super) fn has(&self, fault: Fault) -> bool {
        self.drawn.contains_key(&fault)
    }

    /// No fault was drawn at all: then everything must succeed. What only a family does is no trouble to others.
    pub(super) fn is_calm(&self) -> bool {
        self.drawn.keys().all(|fault| fault.is_of_families())
    }

    /// The same for families.
    pub(super) fn is_calm_for_families(&self) -> bool {
        self.drawn.is_empty()
    }

    pub(super) fn describe(&self) -> String {
        if self.drawn.is_empty() {
            return "calm".to_owned();
        }
        let parts: Vec<_> = self
            .drawn
            .iter()
            .filter(|(fault, _)| !self.muted.contains(fault))
            .map(|(fault, permille)| format!("{}={permille}", fault.as_str()))
            .collect();
        parts.join(" ")
    }
}
