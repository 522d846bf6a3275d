//! Saved state as versioned, named records.
//!
//! A [`StateWriter`] collects records, a [`StateReader`] hands them out by name. What is saved is a
//! type of its own, never a runtime type, and carries a version; what is left over at the end of a
//! restore is an error. Bytes come from outside and are not trusted: every length and name is
//! checked, nothing panics, nothing is allocated that the input does not back.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// One record: its name, the version of its type, and the `postcard` encoding of its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    name: String,
    version: u16,
    data: Vec<u8>,
}

/// What a record is called and which version of it this build writes.
///
/// A name is a path, such as `vcpu0/state`. A version grows when the type changes shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The record's name within its scope.
    pub name: &'static str,
    /// The version this build writes.
    pub version: u16,
}

/// Collects records.
#[derive(Debug, Default)]
pub struct StateWriter {
    scope: String,
    records: Vec<Record>,
}

impl StateWriter {
    /// An empty collection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record.
    ///
    /// # Errors
    /// `Internal` if one of that name was written already or the value cannot be encoded.
    pub fn put<T: Serialize + ?Sized>(&mut self, kind: Kind, value: &T) -> Result<()> {
        let name = format!("{}{}", self.scope, kind.name);
        if self.records.iter().any(|record| record.name == name) {
            return Err(Error::internal(format!("record '{name}' is written twice")));
        }
        let data = postcard::to_stdvec(value)
            .map_err(|error| Error::internal(format!("encoding record '{name}': {error}")))?;
        self.records.push(Record { name, version: kind.version, data });
        Ok(())
    }

    /// Lets `fill` add records whose names start with `scope` and a slash.
    ///
    /// # Errors
    /// What `fill` gives.
    pub fn scope(&mut self, scope: &str, fill: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let len = self.scope.len();
        self.scope.push_str(scope);
        self.scope.push('/');
        let result = fill(self);
        self.scope.truncate(len);
        result
    }

    /// The records as bytes.
    ///
    /// # Errors
    /// `Internal` if they cannot be encoded.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        postcard::to_stdvec(&self.records)
            .map_err(|error| Error::internal(format!("encoding records: {error}")))
    }

    /// The records, to be read in this process.
    pub fn into_reader(self) -> StateReader {
        StateReader { scope: String::new(), records: self.records }
    }
}

/// Hands out records, each once.
#[derive(Debug)]
pub struct StateReader {
    scope: String,
    records: Vec<Record>,
}

impl StateReader {
    /// Reads what [`StateWriter::into_bytes`] wrote.
    ///
    /// # Errors
    /// `Snapshot` if the bytes are not a list of records, have two of one name, or go on behind it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (records, rest) = postcard::take_from_bytes::<Vec<Record>>(bytes)
            .map_err(|error| Error::snapshot(format!("list of records: {error}")))?;
        if !rest.is_empty() {
            return Err(Error::snapshot(format!("{} bytes behind the last record", rest.len())));
        }
        let mut names: Vec<_> = records.iter().map(|record| record.name.as_str()).collect();
        names.sort_unstable();
        if let Some([name, _]) = names.array_windows().find(|[a, b]| a == b) {
            return Err(Error::snapshot(format!("two records are called '{name}'")));
        }
        Ok(Self { scope: String::new(), records })
    }

    /// Takes the record of this kind.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Incompatible` if it has another version, `Snapshot` if its
    /// bytes are not a `T`.
    pub fn take<T: DeserializeOwned>(&mut self, kind: Kind) -> Result<T> {
        let name = format!("{}{}", self.scope, kind.name);
        let Some(at) = self.records.iter().position(|record| record.name == name) else {
            return Err(Error::not_found(format!("no record '{name}'")));
        };
        let Record { version, data, .. } = self.records.swap_remove(at);
        if version != kind.version {
            return Err(Error::incompatible(format!(
                "record '{name}' has version {version}, this build reads {}",
                kind.version
            )));
        }
        match postcard::take_from_bytes(&data) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => {
                let len = rest.len();
                Err(Error::snapshot(format!("record '{name}': {len} bytes too many")))
            }
            Err(error) => Err(Error::snapshot(format!("record '{name}': {error}"))),
        }
    }

    /// Whether there is a record of this kind still to be taken.
    pub fn has(&self, kind: Kind) -> bool {
        let name = format!("{}{}", self.scope, kind.name);
        self.records.iter().any(|record| record.name == name)
    }

    /// Lets `read` take records whose names start with `scope` and a slash.
    ///
    /// # Errors
    /// What `read` gives.
    pub fn scope<T>(
        &mut self,
        scope: &str,
        read: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let len = self.scope.len();
        self.scope.push_str(scope);
        self.scope.push('/');
        let result = read(self);
        self.scope.truncate(len);
        result
    }

    /// Ends the restore.
    ///
    /// # Errors
    /// `Incompatible` if a record was not taken: what it describes would be lost.
    pub fn finish(self) -> Result<()> {
        match self.records.first() {
            None => Ok(()),
            Some(record) => Err(Error::incompatible(format!(
                "{} records were not used, the first is '{}'",
                self.records.len(),
                record.name
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;

    const A: Kind = Kind { name: "a", version: 1 };
    const B: Kind = Kind { name: "b", version: 1 };

    fn saved() -> Vec<u8> {
        let mut out = StateWriter::new();
        out.put(A, &7u32).unwrap();
        out.scope("inner", |out| out.put(A, &vec![1u8, 2, 3])).unwrap();
        out.into_bytes().unwrap()
    }

    #[test]
    fn records_come_back_by_name_and_scope() {
        let mut from = StateReader::from_bytes(&saved()).unwrap();
        assert!(from.has(A) && !from.has(B));
        let inner: Vec<u8> = from.scope("inner", |from| from.take(A)).unwrap();
        assert_eq!(inner, [1, 2, 3]);
        assert_eq!(from.take::<u32>(A).unwrap(), 7);
        assert_eq!(from.take::<u32>(A).unwrap_err().kind(), ErrorKind::NotFound);
        from.finish().unwrap();
    }

    #[test]
    fn leftovers_and_other_versions_are_incompatible() {
        let mut from = StateReader::from_bytes(&saved()).unwrap();
        let newer = Kind { version: 2, ..A };
        assert_eq!(from.take::<u32>(newer).unwrap_err().kind(), ErrorKind::Incompatible);
        let error = from.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        assert!(error.to_string().contains("inner/a"), "{error}");
    }

    #[test]
    fn a_record_of_another_type_is_refused() {
        let mut out = StateWriter::new();
        out.put(A, &[1u8; 9]).unwrap();
        assert_eq!(out.put(A, &1u8).unwrap_err().kind(), ErrorKind::Internal);
        let error = out.into_reader().take::<u8>(A).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Snapshot);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_allocate_beyond_their_size(
            bytes in prop::collection::vec(any::<u8>(), 0..256),
        ) {
            if let Ok(mut from) = StateReader::from_bytes(&bytes) {
                let _ = from.take::<Vec<u64>>(A);
                let _ = from.finish();
            }
        }

        #[test]
        fn a_damaged_list_is_an_error_or_another_list(at in 0usize..20, to in any::<u8>()) {
            let mut bytes = saved();
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(mut from) = StateReader::from_bytes(&bytes) {
                let _ = from.take::<u32>(A);
                let _ = from.scope("inner", |from| from.take::<Vec<u8>>(A));
            }
        }
    }
}
