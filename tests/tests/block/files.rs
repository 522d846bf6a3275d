//! Raw files take requests of any shape. Overlays: the base stays as it is, what was flushed stays, and a file that is none is refused.

use std::{fs, path::Path};

use vmm_core::ErrorKind;
use vmm_devices::{Block, Image, MemoryImage, Overlay, RawFile};

use crate::{
    DISCARD, IN, Numbers, OK, OUT, WRITE_ZEROES, ask, flush, header, range, read, start, write,
};

const LEN: usize = 3 * 65536 + 5 * 512;

fn base(directory: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let (path, data) = (directory.join("base"), Numbers(77).bytes(LEN));
    fs::write(&path, &data).unwrap();
    (path, data)
}

/// More buffers than a system call is given at once.
#[test]
fn a_raw_file_takes_any_number_of_buffers() {
    const BUFFERS: usize = 150;
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = base(directory.path());
    let mut driver = start(Block::image(RawFile::open(&path).unwrap()).unwrap());
    let data = Numbers(3).bytes(BUFFERS * 512);
    let out = header(OUT, 2);
    let buffers: Vec<_> = [out.as_slice()].into_iter().chain(data.chunks(512)).collect();
    driver.submit(0, &buffers, &[1]).unwrap();
    assert_eq!(driver.wait(0).unwrap().data, [OK]);
    assert!(fs::read(&path).unwrap()[1024..][..data.len()] == data);
    driver.submit(0, &[&header(IN, 2)], &[&[512; BUFFERS][..], &[1]].concat()).unwrap();
    let mut done = driver.wait(0).unwrap().data;
    assert_eq!(done.pop(), Some(OK));
    assert!(done == data);
}

#[test]
fn an_overlay_leaves_its_base_alone_and_may_be_one_of_many() {
    let directory = tempfile::tempdir().unwrap();
    let (path, data) = base(directory.path());
    let overlay = || {
        let overlay = Overlay::temporary(RawFile::open_read_only(&path).unwrap()).unwrap();
        start(Block::image(overlay).unwrap())
    };
    let (mut one, mut two) = (overlay(), overlay());
    write(&mut one, 1, &[1; 512]);
    write(&mut two, 1, &[2; 1024]);
    // To the very end of the last, shorter cluster.
    write(&mut one, (LEN / 512 - 1) as u64, &[3; 512]);
    assert_eq!(ask(&mut one, WRITE_ZEROES, 0, &range(130, 200, 1), 0).0, OK);
    assert_eq!(ask(&mut two, DISCARD, 0, &range(0, 386, 0), 0).0, OK);
    let mut expected = data.clone();
    expected[512..1024].fill(1);
    expected[LEN - 512..].fill(3);
    expected[130 * 512..330 * 512].fill(0);
    assert!(read(&mut one, 0, LEN as u32) == expected);
    drop((one, two));
    assert!(fs::read(&path).unwrap() == data);
}

#[test]
fn what_was_written_is_there_when_it_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut data) = base(directory.path());
    let top = directory.path().join("top");
    let open = |kept: bool| {
        let base = RawFile::open_read_only(&path).unwrap();
        let overlay = if kept { Overlay::open(&top, base) } else { Overlay::create(&top, base) };
        start(Block::image(overlay.unwrap()).unwrap())
    };
    let mut numbers = Numbers(5);
    for round in 0..20 {
        let mut driver = open(round > 0);
        assert!(read(&mut driver, 0, LEN as u32) == data, "round {round}");
        for _ in 0..10 {
            let sector = numbers.next(LEN as u64 / 512);
            let len = (numbers.next(40) + 1).min(LEN as u64 / 512 - sector) as usize * 512;
            let new = numbers.bytes(len);
            write(&mut driver, sector, &new);
            data[sector as usize * 512..][..len].copy_from_slice(&new);
        }
    }
    assert!(fs::metadata(&top).unwrap().len() < LEN as u64 + 3 * 65536);
}

#[test]
fn what_was_flushed_survives_whatever_comes_after() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut data) = base(directory.path());
    let (top, copy) = (directory.path().join("top"), directory.path().join("copy"));
    let overlay = Overlay::create(&top, RawFile::open_read_only(&path).unwrap()).unwrap();
    let mut driver = start(Block::image(overlay).unwrap());
    let mut numbers = Numbers(9);
    for _ in 0..30 {
        let sector = numbers.next(LEN as u64 / 512 - 8);
        let new = numbers.bytes(4096);
        write(&mut driver, sector, &new);
        data[sector as usize * 512..][..4096].copy_from_slice(&new);
        flush(&mut driver);
        // As it is when the process is killed now.
        fs::copy(&top, &copy).unwrap();
        let overlay = Overlay::open(&copy, RawFile::open_read_only(&path).unwrap()).unwrap();
        let mut found = vec![0; LEN];
        overlay.read_at(0, &mut found).unwrap();
        assert!(found == data);
        // What is not flushed is there wholly or not at all, by cluster.
        let sector = numbers.next(LEN as u64 / 512 - 8);
        let new = numbers.bytes(4096);
        write(&mut driver, sector, &new);
        drop(overlay);
        fs::copy(&top, &copy).unwrap();
        let overlay = Overlay::open(&copy, RawFile::open_read_only(&path).unwrap()).unwrap();
        overlay.read_at(0, &mut found).unwrap();
        let before = data.clone();
        data[sector as usize * 512..][..4096].copy_from_slice(&new);
        for ((found, before), after) in
            found.chunks(65536).zip(before.chunks(65536)).zip(data.chunks(65536))
        {
            assert!(found == before || found == after);
        }
    }
}

#[test]
fn zeros_are_zeros_where_a_lost_write_had_been() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = base(directory.path());
    let (top, copy) = (directory.path().join("top"), directory.path().join("copy"));
    let overlay = Overlay::create(&top, RawFile::open_read_only(&path).unwrap()).unwrap();
    overlay.write_at(65536, &[0xee; 65536]).unwrap();
    // Killed before the flush: the data is in the file, and nothing says so.
    fs::copy(&top, &copy).unwrap();
    let overlay = Overlay::open(&copy, RawFile::open_read_only(&path).unwrap()).unwrap();
    overlay.write_zeroes(65536, 65536, true).unwrap();
    let mut found = vec![1; 65536];
    overlay.read_at(65536, &mut found).unwrap();
    assert!(found.iter().all(|byte| *byte == 0));
}

#[test]
fn an_overlay_of_an_overlay_of_memory() {
    let base = MemoryImage::from(vec![1; 1 << 20]);
    let middle = Overlay::temporary(base).unwrap();
    middle.write_at(0, &[2; 512]).unwrap();
    let mut driver = start(Block::image(Overlay::temporary(middle).unwrap()).unwrap());
    write(&mut driver, 1, &[3; 512]);
    assert_eq!(read(&mut driver, 0, 1536), [[2; 512], [3; 512], [1; 512]].concat());
}

#[test]
fn files_that_are_no_overlays_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = base(directory.path());
    let top = directory.path().join("top");
    let base = || RawFile::open_read_only(&path).unwrap();
    let refused = |kind| {
        let error = Overlay::open(&top, base()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("top"), "{error}");
    };
    refused(ErrorKind::Host);
    fs::write(&top, b"short").unwrap();
    refused(ErrorKind::Host);
    fs::write(&top, [0; 8192]).unwrap();
    refused(ErrorKind::BadImage);
    fs::remove_file(&top).unwrap();
    drop(Overlay::create(&top, base()).unwrap());
    assert_eq!(Overlay::create(&top, base()).unwrap_err().kind(), ErrorKind::Host, "it exists");
    let good = fs::read(&top).unwrap();
    for (at, kind) in [
        (0, ErrorKind::BadImage),
        (8, ErrorKind::BadImage),
        (13, ErrorKind::BadImage),
        (17, ErrorKind::Incompatible),
    ] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&top, &bad).unwrap();
        refused(kind);
    }
    fs::write(&top, &good).unwrap();
    let in_use = Overlay::open(&top, base()).unwrap();
    refused(ErrorKind::BadConfig);
    drop(in_use);
    // One that was cut off has holes where it was.
    fs::write(&top, &good[..5000]).unwrap();
    Overlay::open(&top, base()).unwrap();
}
