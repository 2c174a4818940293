//! Finds payments in the journal: which records name one, and which payments somebody took part in, newest first.
//!
//! The core forgets closed payments when their retention ends; the journal does not. This is the way to them without
//! reading all of it: an index that says in which frames to look. Whatever is shown is read from the journal itself, so
//! the index can't make anybody believe what did not happen, and it is never asked whether money moved.
//!
//! It reads behind the owner of the journal, only what is durable, keeps up to where it has read together with the hash
//! of that frame, and is built anew from the journal when it is missing, damaged, or of another journal. Spans that are
//! full are in sled; the last one is in memory, of constant size, and is read again after a start.
//!
//! A library for the shells: it has files, and no threads or clock of its own. Sled may panic on damaged files, so
//! whoever calls it is ready for that.

mod pages;
mod summary;
mod terms;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::ParseIntError;
use std::path::Path;
use std::str::FromStr;

use cloud_core_flows::event::Record;
use memchr::memmem::Finder;
use schemas::ids::PaymentId;
use schemas_journal::{Bookmark, Disk, Follower, FramePlace, OpenError, Position};

pub use pages::IndexError;
pub use summary::{Flow, Summary};
pub use terms::Party;

use pages::{Head, Pages};
use terms::{Owed, Term, opened};

/// How large the parts of the index are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Pairs of term and frame of one span: 16 bytes each in memory until it is full. About 20 for each payment.
    pub span_pairs: usize,
    /// Pairs of one page, more or less: a look-up reads one page of each span.
    pub page_pairs: usize,
}

impl Default for Sizes {
    /// 8 MiB in memory, some 30,000 payments in a span.
    fn default() -> Self {
        Self { span_pairs: 512 << 10, page_pairs: 64 }
    }
}

/// Why nothing was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The index itself: remove its directory, and open it again.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The journal could not be read. An index that is built anew would meet the same.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// A record is of a later release.
    #[error("record {position} can't be read: {reason}")]
    Record {
        /// Which.
        position: Position,
        /// Why.
        reason: String,
    },
}

impl HistoryError {
    /// Whether building the index anew helps.
    pub fn is_of_index(&self) -> bool {
        matches!(self, Self::Index(_))
    }
}

/// Where a listing goes on. As text `SEGMENT.OFFSET.RECORD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    place: FramePlace,
    record: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.place.segment, self.place.offset, self.record)
    }
}

/// Not `SEGMENT.OFFSET.RECORD`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a place in a listing: give what the listing before printed as `next`")]
pub struct CursorError;

impl From<ParseIntError> for CursorError {
    fn from(_: ParseIntError) -> Self {
        Self
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let mut number = || -> Result<u64, CursorError> { Ok(parts.next().ok_or(CursorError)?.parse()?) };
        let (segment, offset, record) = (number()?, number()?, number()?);
        if parts.next().is_some() {
            return Err(CursorError);
        }
        Ok(Self { place: FramePlace { segment, offset }, record })
    }
}

/// The index, and the journal that it leads to.
pub struct History<D> {
    disk: D,
    sizes: Sizes,
    pages: Pages,
    head: Head,
    /// None while there is no journal.
    follower: Option<Follower<D>>,
    /// The span that is not full: term and place, in the order of the journal.
    recent: Vec<(u64, u64)>,
    owed: Owed,
}

impl<D: Disk> History<D> {
    /// Opens the index in `directory`, or begins one. `disk` is the journal's, to be read only.
    ///
    /// # Errors
    /// The index is damaged, or not of this journal: remove the directory. Or the journal can't be read.
    pub fn open(directory: &Path, disk: D, sizes: Sizes) -> Result<Self, HistoryError> {
        let (pages, head) = Pages::open(directory)?;
        let head = head.unwrap_or_default();
        let follower = if head.spans.is_empty() {
            Follower::from_start(disk.clone())?
        } else {
            let bookmark = Bookmark::from_bytes(&head.bookmark)
                .ok_or(IndexError::Foreign("it does not say up to where it was read"))?;
            let resumed = Follower::resume(disk.clone(), &bookmark)?;
            Some(
                resumed
                    .ok_or(IndexError::Foreign("the journal does not have the frame that it was read to"))?,
            )
        };
        let owed = Owed(head.owed.iter().copied().collect());
        let recent = Vec::with_capacity(sizes.span_pairs);
        Ok(Self { disk, sizes, pages, head, follower, recent, owed })
    }

    /// The number of records that it knows.
    pub fn position(&self) -> Position {
        self.follower.as_ref().map_or(Position::ZERO, Follower::position)
    }

    /// Reads on, at most up to `through`, which is durable, and at most about so many records.
    ///
    /// # Errors
    /// As [`HistoryError`]; what it holds is then unknown, and it must be opened again.
    pub fn advance(&mut self, through: Position, records: u64) -> Result<(), HistoryError> {
        if self.follower.is_none() {
            self.follower = Follower::from_start(self.disk.clone())?;
        }
        let Some(follower) = &mut self.follower else { return Ok(()) };
        let end = Position::new(follower.position().value().saturating_add(records)).min(through);
        while follower.position() < end {
            let Some(frame) = follower.read_next(through)? else { break };
            let place = number_of(frame.place());
            let mut terms = BTreeSet::new();
            for (position, bytes) in frame.records() {
                terms.extend(self.owed.terms(&decode(position, bytes)?.event));
            }
            self.recent.extend(terms.into_iter().map(|term| (term.0, place)));
            if self.recent.len() >= self.sizes.span_pairs {
                let bookmark = follower.bookmark().to_bytes().to_vec();
                let owed = self.owed.0.iter().map(|(message, term)| (*message, *term)).collect();
                let head = Head { bookmark, owed, ..std::mem::take(&mut self.head) };
                let (number, page_pairs) = (head.spans.len(), self.sizes.page_pairs);
                self.head = self.pages.write_span(number, &mut self.recent, page_pairs, head)?;
                self.recent.clear();
            }
        }
        Ok(())
    }

    /// Gives the records of all frames in which one names this payment, with those of others, in order, until
    /// `on_record` says no.
    ///
    /// Frames of segments that were archived are left out.
    ///
    /// # Errors
    /// The index or a frame can't be read.
    pub fn for_each_record_near(
        &self,
        payment: PaymentId,
        mut on_record: impl FnMut(Position, &[u8]) -> bool,
    ) -> Result<(), HistoryError> {
        let Some(follower) = &self.follower else { return Ok(()) };
        let mut buffer = Vec::new();
        for place in self.places(Term::of_payment(payment))? {
            let Some(frame) = follower.read_at(place_of(place), &mut buffer)? else { continue };
            for (position, bytes) in frame.records() {
                if !on_record(position, bytes) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The last payments in which a party takes part, newest first, each as it is now; those before a cursor, if there is
    /// one. Fewer than `limit`: there are no more, or they are in archived segments.
    ///
    /// # Errors
    /// As [`History::for_each_record_near`].
    pub fn payments_of(
        &self,
        party: &Party,
        before: Option<Cursor>,
        limit: usize,
    ) -> Result<Vec<(Cursor, Summary)>, HistoryError> {
        let begun = self.begun_by(party, before, limit)?;
        let recent = self.recent_places(begun.iter().map(|(_, payment, _)| Term::of_payment(*payment)));
        let mut found = Vec::new();
        for (cursor, payment, span) in begun {
            let term = Term::of_payment(payment);
            let mut places = Vec::new();
            for (number, span) in self.head.spans.iter().enumerate().skip(span) {
                places.extend(self.pages.places(number, *span, term)?);
            }
            places.extend(recent.get(&term).into_iter().flatten());
            found.extend(self.summary(payment, &places)?.map(|summary| (cursor, summary)));
        }
        Ok(found)
    }

    /// One payment as it is now; none of this id was ever begun.
    ///
    /// # Errors
    /// As [`History::for_each_record_near`].
    pub fn payment(&self, payment: PaymentId) -> Result<Option<Summary>, HistoryError> {
        self.summary(payment, &self.places(Term::of_payment(payment))?)
    }

    /// Bytes of the index on disk.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn disk_bytes(&self) -> Result<u64, HistoryError> {
        Ok(self.pages.disk_bytes()?)
    }

    /// Where somebody's last payments began, newest first: cursor, payment, and span of the index.
    fn begun_by(
        &self,
        party: &Party,
        before: Option<Cursor>,
        limit: usize,
    ) -> Result<Vec<(Cursor, PaymentId, usize)>, HistoryError> {
        let Some(follower) = &self.follower else { return Ok(Vec::new()) };
        let (term, name, mut buffer) = (Term::of_party(party), party.name(), Vec::new());
        let (named, mut begun) = (Finder::new(name), Vec::new());
        let last_place = before.map_or(u64::MAX, |cursor| number_of(cursor.place));
        for span in (0..=self.head.spans.len()).rev() {
            let places = self.places_in(span, term)?;
            for place in places.into_iter().rev().filter(|place| *place <= last_place) {
                let place = place_of(place);
                let Some(frame) = follower.read_at(place, &mut buffer)? else { return Ok(begun) };
                let mut in_frame = Vec::new();
                for (position, bytes) in frame.records() {
                    let cursor = Cursor { place, record: position.value() };
                    if before.is_some_and(|before| cursor >= before) || named.find(bytes).is_none() {
                        continue;
                    }
                    if let Some((payment, parties)) = opened(&decode(position, bytes)?.event)
                        && parties.contains(party)
                    {
                        in_frame.push((cursor, payment, span));
                    }
                }
                begun.extend(in_frame.into_iter().rev());
                if begun.len() >= limit {
                    begun.truncate(limit);
                    return Ok(begun);
                }
            }
        }
        Ok(begun)
    }

    fn summary(&self, payment: PaymentId, places: &[u64]) -> Result<Option<Summary>, HistoryError> {
        let Some(follower) = &self.follower else { return Ok(None) };
        let (mut buffer, mut folded) = (Vec::new(), summary::Folded::of(payment));
        // Ids stand in records as they are, and a frame has records of many payments.
        let named = Finder::new(&payment.0);
        for place in places {
            let Some(frame) = follower.read_at(place_of(*place), &mut buffer)? else { continue };
            for (position, bytes) in frame.records().filter(|(_, bytes)| named.find(bytes).is_some()) {
                folded.apply(&decode(position, bytes)?);
            }
        }
        Ok(folded.summary())
    }

    /// The places of a term, ascending.
    fn places(&self, term: Term) -> Result<Vec<u64>, HistoryError> {
        let mut places = Vec::new();
        for span in 0..=self.head.spans.len() {
            places.extend(self.places_in(span, term)?);
        }
        Ok(places)
    }

    /// The same in one span; the one behind the last is that which is not full.
    fn places_in(&self, number: usize, term: Term) -> Result<Vec<u64>, HistoryError> {
        match self.head.spans.get(number) {
            Some(span) => Ok(self.pages.places(number, *span, term)?),
            None => Ok(self.recent.iter().filter(|pair| pair.0 == term.0).map(|pair| pair.1).collect()),
        }
    }

    /// Those of many terms in the span that is not full, looked through once.
    fn recent_places(&self, terms: impl Iterator<Item = Term>) -> BTreeMap<Term, Vec<u64>> {
        let mut places: BTreeMap<Term, Vec<u64>> = terms.map(|term| (term, Vec::new())).collect();
        for (term, place) in &self.recent {
            if let Some(places) = places.get_mut(&Term(*term)) {
                places.push(*place);
            }
        }
        places
    }
}

fn decode(position: Position, bytes: &[u8]) -> Result<Record, HistoryError> {
    Record::decode(bytes).map_err(|error| HistoryError::Record { position, reason: error.to_string() })
}

/// Segments have at most 2^30 bytes.
const OFFSET_BITS: u32 = 32;

/// Ascending as the journal is.
fn number_of(place: FramePlace) -> u64 {
    place.segment << OFFSET_BITS | place.offset
}

fn place_of(number: u64) -> FramePlace {
    FramePlace { segment: number >> OFFSET_BITS, offset: number & ((1 << OFFSET_BITS) - 1) }
}
