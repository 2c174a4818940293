//! A small mutator for the ordinary tests: what libFuzzer does, without its feedback.

use crate::random::Random;

/// Bytes that begin something in CBOR, MQTT, UTF-8 or TOML, or end a range.
const TELLING: &[u8] = &[
    0x00, 0x01, 0x10, 0x1B, 0x20, 0x30, 0x32, 0x40, 0x58, 0x59, 0x5A, 0x5B, 0x5F, 0x7B, 0x7F, 0x80, 0x82,
    0x9A, 0x9B, 0x9F, 0xA1, 0xBB, 0xBF, 0xC0, 0xC2, 0xD2, 0xD8, 0xF6, 0xFB, 0xFE, 0xFF, b'"', b'=', b'[',
    b'+', b'#', b'/',
];
/// Lengths that are likely to be wrong.
const LENGTHS: &[u64] = &[
    0,
    1,
    127,
    128,
    255,
    256,
    511,
    512,
    513,
    8191,
    8192,
    8193,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    u64::MAX,
];
const LONGEST: usize = 16 * 1024;

/// Makes inputs out of inputs, the same from the same seed.
#[derive(Debug)]
pub struct Mutator(Random);

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    /// One of the corpus with one to six changes.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.one_of(corpus).to_vec();
        for _ in 0..=self.0.below(6) {
            self.change(&mut bytes, corpus);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn one_of<'a>(&mut self, corpus: &'a [Vec<u8>]) -> &'a [u8] {
        &corpus[self.index(corpus.len())]
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.0.below(length as u64)).unwrap()
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.index(length + 1);
        let longest = if self.0.below(4) == 0 { length - from } else { (length - from).min(8) };
        from..from + self.index(longest + 1)
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.index(bytes.len() + 1);
        match self.0.below(10) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.0.below(8),
            1 if at < bytes.len() => bytes[at] = self.0.pick(TELLING),
            2 if at < bytes.len() => {
                bytes[at] = bytes[at].wrapping_add(if self.0.below(2) == 0 { 1 } else { 255 })
            }
            3 => bytes.truncate(at),
            4 => {
                let range = self.range(bytes.len());
                bytes.drain(range);
            }
            5 => {
                let again = bytes[self.range(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
            6 => {
                let count = self.index(9);
                let new: Vec<u8> = (0..count).map(|_| self.0.next_u64().to_le_bytes()[0]).collect();
                bytes.splice(at..at, new);
            }
            7 => {
                let other = self.one_of(corpus).to_vec();
                let range = self.range(other.len());
                bytes.splice(at..at, other[range].iter().copied());
            }
            8 => {
                let other = self.one_of(corpus).to_vec();
                let from = self.index(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
            _ => self.overwrite_length(bytes, at),
        }
    }

    fn overwrite_length(&mut self, bytes: &mut [u8], at: usize) {
        let length = self.0.pick(LENGTHS);
        let width = [1, 2, 4, 8][self.index(4)];
        let field = match self.0.below(2) {
            0 => length.to_be_bytes()[8 - width..].to_vec(),
            _ => length.to_le_bytes()[..width].to_vec(),
        };
        for (place, value) in bytes.iter_mut().skip(at).zip(field) {
            *place = value;
        }
    }
}
