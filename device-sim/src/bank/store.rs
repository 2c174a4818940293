//! Where the book lives: in memory, or in a file that is synced before the bank answers.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::book::Book;

/// A book file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is there and can't be read or written.
    #[error("book file {path}: {source}: check the path and its permissions")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is there and is not a book.
    #[error("book file {path} is not a book ({source}): choose another file")]
    NotABook {
        /// Which file.
        path: PathBuf,
        /// Where it went wrong.
        source: serde_json::Error,
    },
}

/// The book and, if wanted, its file. The whole book is written at each change: meant for tests and
/// demos, where it is small.
#[derive(Debug, Default)]
pub struct Store {
    /// The book as of the last successful change.
    book: Book,
    path: Option<PathBuf>,
}

impl Store {
    /// A book that ends with the process.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// A book that survives the process. A file that does not exist yet is an empty book.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let book = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| StoreError::NotABook { path: path.to_owned(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Book::default(),
            Err(source) => return Err(StoreError::Io { path: path.to_owned(), source }),
        };
        Ok(Self { book, path: Some(path.to_owned()) })
    }

    /// The book, to read.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Changes the book and makes the change durable. If that fails, the book is as before.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut Book) -> T) -> Result<T, StoreError> {
        let Some(path) = &self.path else { return Ok(change(&mut self.book)) };
        let mut changed = self.book.clone();
        let result = change(&mut changed);
        if changed != self.book {
            write_durably(path, &changed).map_err(|source| StoreError::Io { path: path.clone(), source })?;
            self.book = changed;
        }
        Ok(result)
    }
}

fn write_durably(path: &Path, book: &Book) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = File::create(&beside)?;
    file.write_all(&serde_json::to_vec(book)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;

    #[test]
    fn change_is_in_the_file_before_it_is_answered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("book.json");
        let mut store = Store::open(&path).unwrap();
        store.change(|book| book.open_account("payer", Decimal::TEN, "EUR")).unwrap().unwrap();
        assert_eq!(Store::open(&path).unwrap().book(), store.book());
    }

    #[test]
    fn failed_write_leaves_the_book_as_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gone").join("book.json");
        let mut store = Store::open(&path).unwrap();
        assert!(store.change(|book| book.open_account("payer", Decimal::TEN, "EUR")).is_err());
        assert_eq!(store.book(), &Book::default());
    }

    #[test]
    fn a_file_that_is_no_book_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("book.json");
        fs::write(&path, "{\"accounts\": 7}").unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::NotABook { .. })));
    }
}
