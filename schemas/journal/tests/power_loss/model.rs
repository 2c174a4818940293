//! What a file system may have kept when the power went, given the calls that were made on it.
//!
//! Of a file that was not synced since: for each sector of 512 bytes what was durable, or any version written since;
//! any of its lengths since. Of the directory: any subset of the names that were made, renamed or removed since it was
//! synced, each of these whole; syncing a file does not make its name durable. That is no real file system, but what
//! POSIX leaves open to all of them.

use std::collections::{BTreeMap, BTreeSet};

use schemas_journal::Call;

use crate::support::Random;

const SECTOR_BYTES: usize = 512;
type Sector = [u8; SECTOR_BYTES];

/// The files of a directory, by name.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

/// A call with its own copy of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnedCall {
    Create(String),
    Write { name: String, offset: u64, bytes: Vec<u8> },
    SyncFile(String),
    Rename { from: String, to: String },
    Remove(String),
    SyncDirectory,
}

impl From<Call<'_>> for OwnedCall {
    fn from(call: Call<'_>) -> Self {
        match call {
            Call::Create { name } => Self::Create(name.to_owned()),
            Call::Write { name, offset, bytes } => {
                Self::Write { name: name.to_owned(), offset, bytes: bytes.to_vec() }
            }
            Call::SyncFile { name } => Self::SyncFile(name.to_owned()),
            Call::Rename { from, to } => Self::Rename { from: from.to_owned(), to: to.to_owned() },
            Call::Remove { name } => Self::Remove(name.to_owned()),
            Call::SyncDirectory => Self::SyncDirectory,
        }
    }
}

/// A file system with one directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileSystem {
    files: Vec<File>,
    /// Name to index of the file, as processes see it.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Not durable yet, in order.
    changes: Vec<NameChange>,
}

#[derive(Debug, Clone)]
struct NameChange {
    set: Option<(String, usize)>,
    gone: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct File {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync.
    lengths: BTreeSet<usize>,
    sectors: BTreeMap<usize, Vec<Sector>>,
}

impl FileSystem {
    /// All of it durable.
    pub(crate) fn holding(image: &Image) -> Self {
        let mut system = Self::default();
        for (name, bytes) in image {
            system.names.insert(name.clone(), system.files.len());
            system.files.push(File { bytes: bytes.clone(), durable: bytes.clone(), ..File::default() });
        }
        system.durable_names = system.names.clone();
        system
    }

    pub(crate) fn apply(&mut self, call: &OwnedCall) {
        match call {
            OwnedCall::Create(name) => match self.names.get(name) {
                Some(file) => self.files[*file].cut(),
                None => {
                    self.names.insert(name.clone(), self.files.len());
                    self.changes.push(NameChange { set: Some((name.clone(), self.files.len())), gone: None });
                    self.files.push(File::default());
                }
            },
            OwnedCall::Write { name, offset, bytes } => {
                let file = self.names[name];
                self.files[file].write(usize::try_from(*offset).unwrap(), bytes);
            }
            OwnedCall::SyncFile(name) => {
                let file = self.names[name];
                self.files[file].sync();
            }
            OwnedCall::Rename { from, to } => {
                let file = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), file);
                let change = NameChange { set: Some((to.clone(), file)), gone: Some(from.clone()) };
                self.changes.push(change);
            }
            OwnedCall::Remove(name) => {
                self.names.remove(name).unwrap();
                self.changes.push(NameChange { set: None, gone: Some(name.clone()) });
            }
            OwnedCall::SyncDirectory => {
                self.changes.clear();
                self.durable_names = self.names.clone();
            }
        }
    }

    /// What processes see.
    pub(crate) fn image(&self) -> Image {
        self.names.iter().map(|(name, file)| (name.clone(), self.files[*file].bytes.clone())).collect()
    }

    /// Sectors, lengths and names that a power cut could take away now.
    pub(crate) fn at_risk(&self) -> (usize, usize) {
        let sectors = self.names.values().map(|file| self.files[*file].sectors.len()).sum();
        (sectors, self.changes.len())
    }

    /// What is there after a power cut now. Each cut draws how much it keeps, so that "all", "nothing" and "all but
    /// one" are as likely as the middle.
    pub(crate) fn power_cut(&self, random: &mut Random) -> Image {
        let mut names = self.durable_names.clone();
        let keep = [0, 1, 8, 15, 16][random.index(5)];
        for change in &self.changes {
            if random.below(16) < keep {
                if let Some(gone) = &change.gone {
                    names.remove(gone);
                }
                if let Some((name, file)) = &change.set {
                    names.insert(name.clone(), *file);
                }
            }
        }
        let keep = [0, 1, 8, 15, 16][random.index(5)];
        names.into_iter().map(|(name, file)| (name, self.files[file].power_cut(keep, random))).collect()
    }
}

impl File {
    fn cut(&mut self) {
        self.bytes.clear();
        self.lengths.insert(0);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
            self.lengths.insert(end);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        for number in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let mut sector = [0; SECTOR_BYTES];
            let from = number * SECTOR_BYTES;
            let there = &self.bytes[from..self.bytes.len().min(from + SECTOR_BYTES)];
            sector[..there.len()].copy_from_slice(there);
            self.sectors.entry(number).or_default().push(sector);
        }
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.bytes);
        self.lengths.clear();
        self.sectors.clear();
    }

    fn power_cut(&self, keep: u64, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        if !self.lengths.is_empty() && random.below(16) < keep {
            let lengths: Vec<usize> = self.lengths.iter().copied().collect();
            bytes.resize(lengths[random.index(lengths.len())], 0);
        }
        for (number, versions) in &self.sectors {
            let from = number * SECTOR_BYTES;
            if from < bytes.len() && random.below(16) < keep {
                let to = bytes.len().min(from + SECTOR_BYTES);
                // The last one as often as all others together.
                let index = random.index(2 * versions.len()).min(versions.len() - 1);
                bytes[from..to].copy_from_slice(&versions[index][..to - from]);
            }
        }
        bytes
    }
}
