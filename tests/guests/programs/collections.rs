//! Rust's standard library as far as a program of one thread uses it.

use std::{
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque},
    env, fs,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    panic,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

fn main() -> ExitCode {
    collections();
    match files() {
        Ok(()) => println!("files: ok"),
        Err(error) => println!("files: {error}"),
    }
    time();
    panics();
    let arguments: Vec<_> = env::args().skip(1).collect();
    println!("{arguments:?} {:?}", env::var("GREETING"));
    ExitCode::from(9)
}

fn collections() {
    let mut counts: HashMap<String, u32> = HashMap::new();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        for word in line.split_whitespace() {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    let sorted: BTreeMap<_, _> = counts.into_iter().collect();
    println!("{sorted:?}");
    let mut heap: BinaryHeap<u32> = (0..1000).map(|n| n * 7919 % 1009).collect();
    let distinct: HashSet<u32> = heap.iter().copied().collect();
    let mut queue = VecDeque::new();
    while let Some(top) = heap.pop() {
        if queue.len() == 5 {
            queue.pop_front();
        }
        queue.push_back(top);
    }
    println!("{queue:?} {}", distinct.len());
}

fn files() -> io::Result<()> {
    fs::create_dir_all("made/deep/down")?;
    fs::write("made/deep/file", "one\ntwo\nthree\n")?;
    let mut file = fs::File::options().read(true).append(true).open("made/deep/file")?;
    writeln!(file, "four")?;
    file.seek(SeekFrom::Start(4))?;
    let mut rest = String::new();
    file.read_to_string(&mut rest)?;
    println!("{rest:?} {}", file.metadata()?.len());
    fs::copy("made/deep/file", "made/copy")?;
    fs::rename("made/copy", "made/renamed")?;
    let lines = BufReader::new(fs::File::open("made/renamed")?).lines();
    println!("{:?}", lines.collect::<io::Result<Vec<_>>>()?);
    let mut names = Vec::new();
    for entry in fs::read_dir("made")? {
        let entry = entry?;
        names.push((entry.file_name(), entry.file_type()?.is_dir()));
    }
    names.sort();
    println!("{names:?}");
    println!("{:?}", fs::read("made/none").map_err(|error| error.kind()));
    println!("{:?}", fs::remove_dir("made").map_err(|error| error.kind()));
    fs::set_permissions("made/renamed", std::os::unix::fs::PermissionsExt::from_mode(0o400))?;
    println!("{}", fs::metadata("made/renamed")?.permissions().readonly());
    std::os::unix::fs::symlink("deep/file", "made/link")?;
    println!("{:?} {}", fs::read_link("made/link")?, fs::read_to_string("made/link")?.len());
    println!("{:?}", fs::canonicalize("made/link")?.file_name());
    fs::remove_dir_all("made/deep")?;
    println!("{}", fs::exists("made/link")?);
    Ok(())
}

fn time() {
    let (began, day) = (Instant::now(), SystemTime::now());
    std::thread::sleep(Duration::from_millis(20));
    let (slept, later) = (began.elapsed(), day.elapsed().unwrap_or_default());
    println!("{} {}", slept >= Duration::from_millis(20), later >= Duration::from_millis(19));
    println!("{}", day.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|d| d.as_secs() > 1 << 30));
}

struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        println!("dropped while unwinding: {}", std::thread::panicking());
    }
}

fn panics() {
    panic::set_hook(Box::new(|info| println!("panic at line {}", info.location().map_or(0, |l| l.line()))));
    let caught = panic::catch_unwind(|| {
        let _guard = Guard;
        let none: Vec<u8> = Vec::new();
        none[env::args().count() + 1]
    });
    let said = caught.map_err(|payload| payload.downcast_ref::<String>().cloned());
    println!("{said:?}");
    let _ = panic::take_hook();
}
