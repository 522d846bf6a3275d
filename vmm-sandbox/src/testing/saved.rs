//! Snapshots in files that were changed, behind checksums that are right again.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsRawFd,
    sync::{Arc, LazyLock},
};

use rustix::fs::MemfdFlags;
use vmm_core::{ErrorKind, host, snapshot};

use super::{FILES, MEMORY, image};
use crate::{Builder, Sandbox, files};

/// A snapshot of a program that has a bit of everything.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut sandbox = common(Sandbox::image(image::program())).build().expect("a sandbox");
    {
        let (process, _) = sandbox.parts();
        let tree = &mut process.namespace;
        let root = tree.current.node().clone();
        let directory = root.make(b"directory", files::Kind::Directory, 0o700).expect("room");
        let file = directory.make(b"file", files::Kind::File, 0o600).expect("room");
        root.link(b"second", &file).expect("room");
        root.make(b"link", files::Kind::Link(b"directory/file"), 0).expect("room");
        let place = tree.current.with(b"directory", directory).with(b"file", file);
        let both = files::How { read: true, write: true, ..files::How::default() };
        let reads = files::How { write: false, ..both };
        for (place, how) in [(&place, both), (&tree.current, reads)] {
            let view = files::View {
                files: &process.files,
                space: &process.space,
                program: &process.name,
                room: &tree.room,
                mounted: Vec::new(),
            };
            let handle = place.node().open(how, place, &view).expect("it can be opened");
            if how.write {
                handle.lock().write(b"content").expect("room");
            }
            process.files.open(handle).expect("a descriptor");
        }
        let (reader, writer) = files::pipe(0);
        writer.lock().write(b"in the pipe").expect("room");
        process.files.open(reader).expect("a descriptor");
        process.files.open(writer).expect("a descriptor");
    }
    let directory = std::env::temp_dir();
    let path = directory.join(format!("vmm-good-{}.vmm", std::process::id()));
    sandbox.snapshot().expect("a snapshot").save(&path).expect("it is saved");
    let bytes = fs::read(&path).expect("it was saved");
    fs::remove_file(&path).expect("it was saved");
    bytes
});

fn common(builder: Builder) -> Builder {
    let soft = host::named("soft").expect("the CPU in software is everywhere");
    builder.hypervisor(soft).memory(MEMORY).file_limit(FILES)
}

/// Opens a snapshot with the changes that the input says: a place, a width and that many bytes each,
/// mostly in what is no page. It is refused, or a sandbox whose parts agree with each other, which
/// gives back everything when it is dropped.
///
/// With a first byte of 0 the rest is a file as it is.
pub fn snapshot(input: &[u8]) {
    let Some((kind, mut rest)) = input.split_first() else { return };
    let bytes = match kind {
        0 => rest.to_vec(),
        _ => {
            let mut bytes = GOOD.clone();
            while let Some(([low, high, width], behind)) = rest.split_first_chunk() {
                let width = usize::from(width % 8 + 1).min(behind.len());
                let (new, behind) = behind.split_at(width);
                let at = usize::from(u16::from_le_bytes([*low, *high]));
                // The end has the index of pages.
                let at = if at >= 0xff80 {
                    bytes.len().wrapping_sub(0x1_0000 - at)
                } else {
                    at % 0x1000
                };
                bytes.iter_mut().skip(at).zip(new).for_each(|(place, byte)| *place = *byte);
                rest = behind;
            }
            snapshot::reseal(&mut bytes);
            bytes
        }
    };
    let memfd = rustix::fs::memfd_create("snapshot", MemfdFlags::CLOEXEC).expect("a memfd");
    let mut file = File::from(memfd);
    file.write_all(&bytes).expect("memory for a file");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut sandbox = match common(Sandbox::saved(path)).baseline_only().build() {
        Ok(sandbox) => sandbox,
        Err(error) => {
            let kinds = [ErrorKind::BadConfig, ErrorKind::Incompatible, ErrorKind::NotFound];
            assert!(
                kinds.contains(&error.kind()) || error.kind() == ErrorKind::Snapshot,
                "{error}"
            );
            return;
        }
    };
    let (process, _) = sandbox.parts();
    process.space.check();
    assert!(process.space.used() <= MEMORY && process.namespace.room.left() <= FILES);
    let room = Arc::clone(&process.namespace.room);
    let warm = sandbox.snapshot().expect("what was opened can be snapshot");
    drop(warm.fork().expect("and forked"));
    drop((sandbox, warm));
    assert_eq!(room.left(), FILES, "files in memory that nobody has");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_good_one_is_opened() {
        snapshot(&[1]);
        snapshot(&[&[0], &GOOD[..]].concat());
        let path = std::env::temp_dir().join(format!("vmm-test-{}.vmm", std::process::id()));
        fs::write(&path, &*GOOD).unwrap();
        let mut sandbox = common(Sandbox::saved(&path)).build().unwrap();
        fs::remove_file(&path).unwrap();
        let (process, _) = sandbox.parts();
        assert_eq!(process.files.descriptors().count(), 7);
        let mut bytes = [0; 16];
        assert_eq!(process.files.get(3).unwrap().lock().read_at(0, &mut bytes), Ok(7));
        assert_eq!(process.files.get(5).unwrap().lock().read(&mut bytes), Ok(11));
    }
}
