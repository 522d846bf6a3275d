//! A guest at one moment, in a file.
//!
//! One format, whatever was snapshot: a header, a table of sections, and four sections. What the
//! records say is for who wrote them; the pages of memory that hold something else than zeros are
//! kept here. A file is untrusted input: each section has a length and a checksum (CRC-32), nothing
//! is allocated that was not allowed, and what does not fit is an error with the section's name.
//!
//! ```text
//!    0  header, 64 bytes    magic, version, architecture, sections, length, checksums
//!   64  table, 40 each      name, offset, length, checksum
//!  224  origin              where it was made: Origin
//!       records             the state: StateWriter
//!       memory              from the next multiple of 4096: pages, one behind the other
//!       pages               which these are: the memory's length, and runs of pages
//! ```
//!
//! Numbers are little-endian, values are `postcard`'s. A file is copied in, never mapped: whoever
//! can cut a mapped file short can end the process (SIGBUS).

use std::{
    fs::{self, File},
    io::{BufWriter, ErrorKind as IoErrorKind, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

use crc32fast::Hasher;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use vm_memory::{Bytes, GuestMemoryRegion, MemoryRegionAddress};

use crate::{
    arch::CpuModel,
    error::{Context, Error, HostResult, Result},
    memory::{PAGE_SIZE, PageSet, RamRegion, Template},
    persist::{StateReader, StateWriter},
};

/// The version of the format that is written and read. A record has a version of its own.
pub const VERSION: u32 = 1;

/// Bytes that a text never has, so that one is told apart, and a file that went through one.
const MAGIC: [u8; 8] = *b"\x89VMM\r\n\x1a\n";
/// x86-64, as ELF numbers it.
const ARCHITECTURE: u32 = 62;
const HEADER: usize = 64;
const ENTRY: usize = 40;
const NAMES: [&str; 4] = ["origin", "records", "memory", "pages"];
/// Their places in the table.
const ORIGIN: usize = 0;
const RECORDS: usize = 1;
const MEMORY: usize = 2;
const PAGES: usize = 3;
const BODY: usize = HEADER + NAMES.len() * ENTRY;
/// The most bytes of the origin: CPUID has some hundred answers.
const MOST_ORIGIN: u64 = 1 << 20;
/// Pages that are read at once.
const CHUNK: u64 = 64;

/// Where a snapshot was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What it is of, such as `sandbox`: who reads another thing's records goes astray.
    pub what: String,
    /// The back end, such as `kvm`.
    pub hypervisor: String,
    /// All that the guest may have seen of its processor.
    pub cpu: CpuModel,
}

/// How much of a file is taken in, at most.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// The length of the guest's memory in bytes.
    pub memory: u64,
    /// The length of the records in bytes.
    pub records: u64,
}

/// A section: where it is, and the checksum of its bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Section {
    offset: u64,
    len: u64,
    checksum: u32,
}

/// The section `pages`: how long the memory is, and starts and lengths of runs, in pages.
#[derive(Debug, Serialize, Deserialize)]
struct PageIndex {
    len: u64,
    runs: Vec<(u64, u64)>,
}

/// Writes a snapshot: of the memory those of `pages` that hold something else than zeros. Whoever
/// finds a file of that name finds all of it: it is written under another name in the same
/// directory, and takes its place when the host has it on its disk. It is readable for its owner
/// only, for it has whatever the guest had in memory.
///
/// # Errors
/// `Host` if the file cannot be written; what was there stays.
pub fn save(
    path: &Path,
    origin: &Origin,
    records: StateWriter,
    (memory, pages): (&Template, &PageSet),
) -> Result<()> {
    let what = || format!("saving {}", path.display());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().prefix(".snapshot-").tempfile_in(directory);
    let temporary = made.host(what)?;
    let mut out = Out::new(temporary.as_file()).host(what)?;
    out.section(ORIGIN, &encoded(origin)?).host(what)?;
    out.section(RECORDS, &records.into_bytes()?).host(what)?;
    let index = out.memory(memory, pages).context(what)?;
    out.section(PAGES, &encoded(&index)?).host(what)?;
    out.finish().host(what)?;
    temporary.as_file().sync_all().host(what)?;
    temporary.persist(path).map_err(|error| error.error).host(what)?;
    File::open(directory).and_then(|directory| directory.sync_all()).host(what)
}

fn encoded<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|error| Error::internal(format!("encoding: {error}")))
}

/// A file that is being written.
struct Out<'a> {
    file: BufWriter<&'a File>,
    at: u64,
    sections: [Section; NAMES.len()],
}

impl<'a> Out<'a> {
    fn new(file: &'a File) -> std::io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.seek(SeekFrom::Start(BODY as u64))?;
        Ok(Self { file, at: BODY as u64, sections: Default::default() })
    }

    fn section(&mut self, which: usize, bytes: &[u8]) -> std::io::Result<()> {
        let section =
            Section { offset: self.at, len: bytes.len() as u64, checksum: crc32fast::hash(bytes) };
        self.end(which, section);
        self.file.write_all(bytes)
    }

    fn end(&mut self, which: usize, section: Section) {
        self.at = section.offset + section.len;
        if let Some(place) = self.sections.get_mut(which) {
            *place = section;
        }
    }

    fn memory(&mut self, memory: &Template, pages: &PageSet) -> Result<PageIndex> {
        let offset = self.at.next_multiple_of(PAGE_SIZE);
        let gap = [0; PAGE_SIZE as usize];
        let gap = gap.get(..(offset - self.at) as usize).unwrap_or(&[]);
        self.file.write_all(gap).host(|| "padding")?;
        let (mut hasher, mut written) = (Hasher::new(), PageSet::new());
        let mut page_bytes = [0; PAGE_SIZE as usize];
        for page in pages.runs().flatten().take_while(|page| *page < memory.len() / PAGE_SIZE) {
            memory.read(page * PAGE_SIZE, &mut page_bytes)?;
            if page_bytes.iter().any(|byte| *byte != 0) {
                hasher.update(&page_bytes);
                self.file.write_all(&page_bytes).host(|| format!("page {page:#x}"))?;
                written.insert(page);
            }
        }
        let len = written.count() * PAGE_SIZE;
        self.end(MEMORY, Section { offset, len, checksum: hasher.finalize() });
        let runs = written.runs().map(|run| (run.start, run.end - run.start)).collect();
        Ok(PageIndex { len: memory.len(), runs })
    }

    fn finish(mut self) -> std::io::Result<()> {
        self.file.flush()?;
        let front = front(&self.sections, self.at);
        self.file.get_ref().write_all_at(&front, 0)
    }
}

/// Header and table.
fn front(sections: &[Section; NAMES.len()], len: u64) -> [u8; BODY] {
    let mut front = [0; BODY];
    let mut put = |at: usize, bytes: &[u8]| {
        front.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    let mut table = Vec::new();
    for (name, section) in NAMES.iter().zip(sections) {
        let mut entry = [0; 16];
        entry.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        table.extend(entry);
        table.extend(section.offset.to_le_bytes());
        table.extend(section.len.to_le_bytes());
        table.extend(section.checksum.to_le_bytes());
        table.extend([0; 4]);
    }
    put(0, &MAGIC);
    put(8, &VERSION.to_le_bytes());
    put(12, &ARCHITECTURE.to_le_bytes());
    put(16, &(NAMES.len() as u32).to_le_bytes());
    put(24, &len.to_le_bytes());
    put(32, &crc32fast::hash(&table).to_le_bytes());
    put(HEADER, &table);
    let checksum = crc32fast::hash(front.get(..HEADER - 4).unwrap_or(&[]));
    let end = front.iter_mut().skip(HEADER - 4).zip(checksum.to_le_bytes());
    end.for_each(|(to, from)| *to = from);
    front
}

/// A snapshot in a file, of which all but the memory was read.
#[derive(Debug)]
pub struct Saved {
    file: File,
    origin: Origin,
    records: StateReader,
    index: PageIndex,
    memory: Section,
}

impl Saved {
    /// Opens a snapshot of `what`.
    ///
    /// # Errors
    /// `Snapshot` with the section's name if the file is none, was changed or cut, or is larger
    /// than allowed; `Incompatible` if it is of another version, architecture or thing; `Host` if it
    /// cannot be read.
    pub fn open(path: &Path, what: &str, allowed: Allowed) -> Result<Self> {
        // Without waiting: a pipe of that name is opened too, and refused.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let file = File::from(opened.host(|| format!("opening {}", path.display()))?);
        Self::read(file, what, allowed).context(|| path.display().to_string())
    }

    /// The same of a file that is open.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn read(file: File, what: &str, allowed: Allowed) -> Result<Self> {
        let about = file.metadata().host(|| "looking at the file")?;
        if !fs::Metadata::is_file(&about) {
            return Err(Error::snapshot("header: not a regular file"));
        }
        let [origin, records, memory, pages] = sections(&file, about.len())?;
        let origin: Origin = value(ORIGIN, &content(&file, ORIGIN, origin, MOST_ORIGIN)?)?;
        if origin.what != what {
            let what = format!("section 'origin': of a {}, not of a {what}", origin.what);
            return Err(Error::incompatible(what));
        }
        let records = content(&file, RECORDS, records, allowed.records)?;
        let records = StateReader::from_bytes(&records).context(|| named(RECORDS))?;
        // A run has one page at least, and takes two numbers of at most ten bytes.
        let most = 64 + 20 * (allowed.memory / PAGE_SIZE);
        let index: PageIndex = value(PAGES, &content(&file, PAGES, pages, most)?)?;
        check_index(&index, memory.len, allowed.memory)?;
        Ok(Self { file, origin, records, index, memory })
    }

    /// Where it was made.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Takes the records out; they can be had once.
    pub fn take_records(&mut self) -> StateReader {
        std::mem::replace(&mut self.records, StateWriter::new().into_reader())
    }

    /// The length of its memory in bytes.
    pub fn memory(&self) -> u64 {
        self.index.len
    }

    /// The pages of it that are kept, as ranges in ascending order; all others are zeros.
    pub fn pages(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.index.runs.iter().map(|(start, count)| *start..*start + *count)
    }

    /// Copies the pages to where they belong in a region, which is zeros.
    ///
    /// # Errors
    /// `Snapshot` if they were changed or cut, and some were copied then; `BadConfig` if the region
    /// is too short; `Host` if they cannot be read.
    pub fn load(&self, region: &RamRegion) -> Result<()> {
        if GuestMemoryRegion::len(region) < self.index.len {
            let len = self.index.len;
            return Err(Error::bad_config(format!("{len:#x} bytes of memory for {region}")));
        }
        let (mut hasher, mut at) = (Hasher::new(), self.memory.offset);
        let mut bytes = vec![0; (CHUNK * PAGE_SIZE) as usize];
        for run in self.pages() {
            let mut page = run.start;
            while page < run.end {
                let count = CHUNK.min(run.end - page);
                let Some(part) = bytes.get_mut(..(count * PAGE_SIZE) as usize) else { break };
                exactly(&self.file, part, at, MEMORY)?;
                hasher.update(part);
                let place = MemoryRegionAddress(page * PAGE_SIZE);
                let written = region.write_slice(part, place);
                written.map_err(|error| Error::internal(format!("page {page:#x}: {error}")))?;
                (page, at) = (page + count, at + count * PAGE_SIZE);
            }
        }
        check(MEMORY, hasher.finalize(), self.memory.checksum)
    }
}

fn named(which: usize) -> String {
    format!("section '{}'", NAMES.get(which).unwrap_or(&""))
}

fn refused(which: usize, why: &str) -> Error {
    Error::snapshot(format!("{}: {why}", named(which)))
}

fn check(which: usize, is: u32, should: u32) -> Result<()> {
    match is == should {
        true => Ok(()),
        false => Err(refused(which, &format!("its checksum is {is:#010x}, not {should:#010x}"))),
    }
}

/// Reads all of these bytes; a file may be cut while it is read.
fn exactly(file: &File, bytes: &mut [u8], at: u64, which: usize) -> Result<()> {
    file.read_exact_at(bytes, at).map_err(|error| match error.kind() {
        IoErrorKind::UnexpectedEof => refused(which, "the file ends before it"),
        _ => Error::host(named(which), error.raw_os_error().unwrap_or(libc::EIO)),
    })
}

fn content(file: &File, which: usize, section: Section, most: u64) -> Result<Vec<u8>> {
    if section.len > most {
        let why = format!("{} bytes, and {most} are allowed", section.len);
        return Err(refused(which, &why));
    }
    let mut bytes = vec![0; usize::try_from(section.len).unwrap_or(usize::MAX)];
    exactly(file, &mut bytes, section.offset, which)?;
    check(which, crc32fast::hash(&bytes), section.checksum)?;
    Ok(bytes)
}

fn value<T: DeserializeOwned>(which: usize, bytes: &[u8]) -> Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(refused(which, &format!("{} bytes too many", rest.len()))),
        Err(error) => Err(refused(which, &error.to_string())),
    }
}

/// Reads header and table: where the sections are, one behind the other in a file of this length.
fn sections(file: &File, len: u64) -> Result<[Section; NAMES.len()]> {
    let header = |why: &str| Error::snapshot(format!("header: {why}"));
    let mut front = [0; BODY];
    if len < BODY as u64 || file.read_exact_at(&mut front, 0).is_err() {
        return Err(header("the file is too short for one"));
    }
    let word = |at: usize| front.get(at..).and_then(|bytes| bytes.first_chunk()).copied();
    let word = |at| u32::from_le_bytes(word(at).unwrap_or_default());
    if !front.starts_with(&MAGIC) {
        return Err(header("no snapshot of this library"));
    }
    let checked = front.get(..HEADER - 4).unwrap_or(&[]);
    if crc32fast::hash(checked) != word(HEADER - 4) {
        return Err(header("its checksum is another"));
    }
    if word(8) != VERSION {
        let what = format!("header: version {}, this build reads {VERSION}", word(8));
        return Err(Error::incompatible(what));
    }
    if word(12) != ARCHITECTURE {
        return Err(Error::incompatible(format!("header: architecture {}", word(12))));
    }
    let table = front.get(HEADER..).unwrap_or(&[]);
    if word(16) as usize != NAMES.len() || crc32fast::hash(table) != word(32) {
        return Err(Error::snapshot("table: its checksum is another"));
    }
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let mut end = BODY as u64;
    let mut all = [Section::default(); NAMES.len()];
    for (which, section) in all.iter_mut().enumerate() {
        let at = HEADER + which * ENTRY;
        let (offset, len) = (long(at + 16), long(at + 24));
        *section = Section { offset, len, checksum: word(at + 32) };
        let begins = if which == MEMORY { end.next_multiple_of(PAGE_SIZE) } else { end };
        if offset != begins {
            return Err(refused(which, &format!("is at {offset:#x}, not at {begins:#x}")));
        }
        if which == MEMORY {
            check_gap(file, end..begins)?;
        }
        end = offset.checked_add(len).ok_or_else(|| refused(which, "it has no end"))?;
    }
    if long(24) != end || len != end {
        let why = format!("header: the file has {len} bytes, its sections {end}");
        return Err(Error::snapshot(why));
    }
    Ok(all)
}

/// What lies between sections are zeros.
fn check_gap(file: &File, range: Range<u64>) -> Result<()> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    exactly(file, &mut bytes, range.start, MEMORY)?;
    match bytes.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(refused(MEMORY, "what pads it is not zeros")),
    }
}

fn check_index(index: &PageIndex, memory: u64, most: u64) -> Result<()> {
    if index.len > most || !index.len.is_multiple_of(PAGE_SIZE) {
        let why = format!("{:#x} bytes of memory, and {most:#x} are allowed", index.len);
        return Err(refused(PAGES, &why));
    }
    let (mut end, mut count) = (0, 0);
    for (start, pages) in &index.runs {
        let next = start.checked_add(*pages).filter(|_| *pages > 0 && *start >= end);
        end = next.ok_or_else(|| refused(PAGES, &format!("a run at page {start:#x}")))?;
        count += pages;
    }
    if end > index.len / PAGE_SIZE || count.checked_mul(PAGE_SIZE) != Some(memory) {
        return Err(refused(PAGES, &format!("{count} pages up to {end:#x}, and others are kept")));
    }
    Ok(())
}

/// Puts right checksums and offsets of bytes that were changed, so that a test gets behind them.
/// The lengths are as they were.
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub fn reseal(bytes: &mut [u8]) {
    let long = |bytes: &[u8], at: usize| {
        let word = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        u64::from_le_bytes(word.copied().unwrap_or_default())
    };
    let mut sections = [Section::default(); NAMES.len()];
    for (which, section) in sections.iter_mut().enumerate() {
        let at = HEADER + which * ENTRY;
        let (offset, len) = (long(bytes, at + 16), long(bytes, at + 24));
        let range =
            usize::try_from(offset).ok().zip(usize::try_from(offset.wrapping_add(len)).ok());
        let content = range.and_then(|(start, end)| bytes.get(start..end)).unwrap_or(&[]);
        *section = Section { offset, len, checksum: crc32fast::hash(content) };
    }
    let front = front(&sections, bytes.len() as u64);
    bytes.iter_mut().zip(front).for_each(|(to, from)| *to = from);
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use vm_memory::GuestAddress;

    use super::*;
    use crate::{ErrorKind, persist::Kind};

    const LEN: u64 = 64 * PAGE_SIZE;
    const ALLOWED: Allowed = Allowed { memory: LEN, records: 1 << 16 };
    const STATE: Kind = Kind { name: "state", version: 1 };

    fn template() -> Template {
        let region = RamRegion::memfd(GuestAddress(0), LEN).unwrap();
        for page in [1, 2, 5, 40] {
            region.write_slice(&[page as u8; 32], MemoryRegionAddress(page * PAGE_SIZE)).unwrap();
        }
        // Zeros that were written are zeros.
        region.write_slice(&[0; 32], MemoryRegionAddress(7 * PAGE_SIZE)).unwrap();
        region.freeze(LEN, &PageSet::new()).unwrap()
    }

    fn written(directory: &Path) -> Vec<u8> {
        let path = directory.join("snapshot");
        let mut records = StateWriter::new();
        records.put(STATE, &"a state").unwrap();
        let origin =
            Origin { what: "test".into(), hypervisor: "none".into(), cpu: CpuModel::default() };
        let template = template();
        save(&path, &origin, records, (&template, template.pages())).unwrap();
        fs::read(path).unwrap()
    }

    fn opened(directory: &Path, bytes: &[u8]) -> Result<RamRegion> {
        let path = directory.join("changed");
        fs::write(&path, bytes).unwrap();
        let mut saved = Saved::open(&path, "test", ALLOWED)?;
        let mut records = saved.take_records();
        assert_eq!(records.take::<String>(STATE)?, "a state");
        records.finish()?;
        let region = RamRegion::memfd(GuestAddress(0), LEN)?;
        saved.load(&region).map(|()| region)
    }

    #[test]
    fn what_is_saved_comes_back_and_zeros_are_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = written(directory.path());
        assert!(bytes.len() < 3 * 4096 + 4 * 4096, "{}", bytes.len());
        let region = opened(directory.path(), &bytes).unwrap();
        for page in 0..LEN / PAGE_SIZE {
            let mut first = [0; 32];
            region.read_slice(&mut first, MemoryRegionAddress(page * PAGE_SIZE)).unwrap();
            let wanted = if [1, 2, 5, 40].contains(&page) { page as u8 } else { 0 };
            assert_eq!(first, [wanted; 32], "page {page}");
        }
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn every_byte_that_is_changed_and_every_cut_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = written(directory.path());
        let names = ["header", "table", "'origin'", "'records'", "'memory'", "'pages'"];
        let refused = |changed: &[u8]| {
            let error = opened(directory.path(), changed).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Snapshot, "{error}");
            let said = error.to_string();
            assert!(names.iter().any(|name| said.contains(name)), "{said}");
        };
        // All that is no page, and some of each page.
        let (front, body) = (BODY + 600, bytes.len() - 64);
        for at in (0..bytes.len()).filter(|at| *at < front || *at > body || at % 97 == 0) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            refused(&changed);
        }
        for len in (0..bytes.len()).filter(|at| *at < front || *at > body || at % 97 == 0) {
            refused(&bytes[..len]);
        }
        refused(&[&*bytes, b"x"].concat());
    }

    #[test]
    fn what_is_of_another_kind_is_incompatible() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = written(directory.path());
        let path = directory.path().join("snapshot");
        let error = Saved::open(&path, "machine", ALLOWED).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        for (at, says) in [(8, "version"), (12, "architecture")] {
            let mut changed = bytes.clone();
            changed[at] += 1;
            let checksum = crc32fast::hash(&changed[..HEADER - 4]);
            changed[HEADER - 4..HEADER].copy_from_slice(&checksum.to_le_bytes());
            let error = opened(directory.path(), &changed).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        let less =
            [Allowed { memory: LEN - PAGE_SIZE, ..ALLOWED }, Allowed { records: 4, ..ALLOWED }];
        for allowed in less {
            let error = Saved::open(&path, "test", allowed).unwrap_err();
            assert!(error.to_string().contains("allowed"), "{error}");
        }
        assert!(Saved::open(Path::new("/dev/null"), "test", ALLOWED).is_err());
        assert_eq!(
            Saved::open(Path::new("/no/such"), "test", ALLOWED).unwrap_err().os_error(),
            Some(libc::ENOENT)
        );
    }

    #[test]
    fn a_save_that_fails_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("taken")).unwrap();
        let template = template();
        let origin =
            Origin { what: "test".into(), hypervisor: "none".into(), cpu: CpuModel::default() };
        for name in ["taken", "no/such"] {
            let path = directory.path().join(name);
            let memory = (&template, template.pages());
            let error = save(&path, &origin, StateWriter::new(), memory).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Host, "{error}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    proptest! {
        #[test]
        fn behind_good_checksums_nothing_panics(
            changes in prop::collection::vec((0usize..700, any::<u8>()), 1..8),
            tail in prop::collection::vec((0usize..40, any::<u8>()), 0..4),
        ) {
            static GOOD: LazyLock<Vec<u8>> =
                LazyLock::new(|| written(tempfile::tempdir().unwrap().path()));
            let mut bytes = GOOD.clone();
            let len = bytes.len();
            changes.into_iter().for_each(|(at, to)| bytes[at] = to);
            tail.into_iter().for_each(|(at, to)| bytes[len - 1 - at] = to);
            reseal(&mut bytes);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            if let Ok(saved) = Saved::read(file, "test", ALLOWED) {
                let region = RamRegion::memfd(GuestAddress(0), LEN).unwrap();
                let _ = saved.load(&region);
            }
        }
    }
}
