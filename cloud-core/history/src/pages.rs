//! What is kept in sled: immutable pages of `term -> frames`, span by span of the journal.
//!
//! A span is written once, when it is full, and never again: keys ascend, values are small, each is inserted by itself.
//! Measured with sled 0.34.7, this is what it keeps out of memory: 300,000 such inserts left 16 MB resident, the same in
//! batches 280 MB (a batch keeps what it replaced), and random keys of single payments 13 to 40 bytes for each, for ever.
//!
//! ```text
//! tree `pages`   span (4 bytes), page (4 bytes)  ->  CBOR: [[term, [place, further by, ...]], ...], ascending
//! tree `head`    "head"                          ->  CBOR of Head, written last
//! ```
//! A term is on the page of its first bits. What a crash leaves without its head is written again, to the same keys.

use std::path::Path;

use schemas::cbor;
use serde::{Deserialize, Serialize};

use crate::terms::Term;

/// Of the layout above. Another one is rebuilt.
const FORMAT: u32 = 1;
/// As small as it may be: the system caches the files anyway, and look-ups are rare.
const CACHE_BYTES: u64 = 1 << 20;
const HEAD: &[u8] = b"head";

/// Why the index can't be used. It holds nothing that the journal does not have: remove it, and build it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The database did not do what it was asked.
    #[error("the index could not be read or written: {0}")]
    Database(#[from] sled::Error),
    /// What it holds is not what was written.
    #[error("the index holds what is no page of it: {0}")]
    Content(#[from] cbor::CborError),
    /// What was written is not there.
    #[error("page {page} of span {span} of the index is missing")]
    Missing {
        /// Which span.
        span: usize,
        /// Which of its pages.
        page: u32,
    },
    /// Made by another release, from another journal, or from a future that was taken back.
    #[error("the index belongs to another journal or release: {0}")]
    Foreign(&'static str),
}

/// How far the index is, and what its spans are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) format: u32,
    #[serde(with = "serde_bytes")]
    pub(crate) bookmark: Vec<u8>,
    pub(crate) spans: Vec<Span>,
    /// Messages that name a payment and are owed, each with the payment's term.
    pub(crate) owed: Vec<(schemas::ids::MessageId, u64)>,
}

/// A part of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    /// It has two to the power of this many pages.
    page_bits: u32,
    /// All of its places are in these bounds.
    pub(crate) first_place: u64,
    pub(crate) last_place: u64,
}

/// The open database.
pub(crate) struct Pages {
    pages: sled::Tree,
    head: sled::Tree,
    /// Dropped last: it closes the files.
    database: sled::Db,
}

impl Pages {
    pub(crate) fn open(directory: &Path) -> Result<(Self, Option<Head>), IndexError> {
        // It is synced when a span is written, and by no thread of its own.
        let config = sled::Config::new().path(directory).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let database = config.open()?;
        let (pages, head) = (database.open_tree("pages")?, database.open_tree("head")?);
        let found =
            head.get(HEAD)?.map(|bytes| cbor::decode_within::<Head>(&bytes, usize::MAX)).transpose()?;
        if found.as_ref().is_some_and(|head| head.format != FORMAT) {
            return Err(IndexError::Foreign("its format is another one"));
        }
        Ok((Self { pages, head, database }, found))
    }

    /// Writes the span with this number, and the head that knows it. `pairs` of term and place are sorted here.
    pub(crate) fn write_span(
        &self,
        number: usize,
        pairs: &mut [(u64, u64)],
        page_pairs: usize,
        mut head: Head,
    ) -> Result<Head, IndexError> {
        pairs.sort_unstable();
        let pages = (pairs.len() / page_pairs.max(1)).max(1).next_power_of_two();
        let first_place = pairs.iter().map(|(_, place)| *place).min().unwrap_or(0);
        let last_place = pairs.iter().map(|(_, place)| *place).max().unwrap_or(0);
        let span = Span { page_bits: pages.trailing_zeros(), first_place, last_place };
        let mut rest = &*pairs;
        for page in 0..u32::try_from(pages).unwrap_or(u32::MAX) {
            let (on_page, behind) =
                rest.split_at(rest.partition_point(|(term, _)| span.page_of(*term) <= page));
            // An empty one too: so one that is missing is damage.
            self.pages.insert(page_key(number, page), encode_page(on_page, first_place))?;
            rest = behind;
        }
        head.format = FORMAT;
        head.spans.push(span);
        self.head.insert(HEAD, cbor::encode(&head))?;
        self.database.flush()?;
        Ok(head)
    }

    /// The places of a term in a span, ascending.
    pub(crate) fn places(&self, number: usize, span: Span, term: Term) -> Result<Vec<u64>, IndexError> {
        let bytes = self.pages.get(page_key(number, span.page_of(term.0)))?;
        let bytes = bytes.ok_or(IndexError::Missing { span: number, page: span.page_of(term.0) })?;
        let page: Vec<(u64, Vec<u64>)> = cbor::decode_within(&bytes, usize::MAX)?;
        let Ok(index) = page.binary_search_by_key(&term.0, |(term, _)| *term) else { return Ok(Vec::new()) };
        let steps = page.get(index).map_or(&[][..], |(_, steps)| steps);
        let places = steps.iter().scan(span.first_place, |place, step| {
            *place = place.saturating_add(*step);
            Some(*place)
        });
        Ok(places.collect())
    }

    /// Bytes on disk.
    pub(crate) fn disk_bytes(&self) -> Result<u64, IndexError> {
        Ok(self.database.size_on_disk()?)
    }
}

impl Span {
    fn page_of(self, term: u64) -> u32 {
        let page = term.checked_shr(u64::BITS - self.page_bits).unwrap_or(0);
        u32::try_from(page).unwrap_or(u32::MAX)
    }
}

fn page_key(span: usize, page: u32) -> [u8; 8] {
    let span = u32::try_from(span).unwrap_or(u32::MAX);
    (u64::from(span) << 32 | u64::from(page)).to_be_bytes()
}

/// Places are written as steps from the one before: most are small.
fn encode_page(pairs: &[(u64, u64)], first_place: u64) -> Vec<u8> {
    let entries = pairs.chunk_by(|one, next| one.0 == next.0).map(|same| {
        let mut before = first_place;
        let steps = same.iter().map(|(_, place)| place - std::mem::replace(&mut before, *place));
        (same.first().map_or(0, |(term, _)| *term), steps.collect::<Vec<_>>())
    });
    cbor::encode(&entries.collect::<Vec<_>>())
}
