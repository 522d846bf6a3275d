//! A web server whose handler is a program in sandboxes: each request finds it as it was started.
//!
//! `cargo run --release --example serve`, then `curl http://127.0.0.1:8080/prime/97`. What a request
//! writes into the program's memory the next one does not see; one that crashes or does not end
//! gets an error, and nobody else notices.

#[expect(dead_code, reason = "what only the other command lines have")]
#[path = "arguments/mod.rs"]
mod arguments;

use std::{
    error::Error,
    io::{Read, Write},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use tiny_http::{Request, Response, Server};
use vmm_sandbox::{Pool, Sandbox};

/// Compiled by `build.rs`.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/serve"));

/// The most of a request that is passed on.
const MOST_BODY: u64 = 64 << 10;

/// How long the start and each request may take.
const LONGEST: Duration = Duration::from_secs(10);

const HELP: &str = "\
Usage: serve [--listen ADDRESS] [--sandboxes N] [--threads N] [--requests N] [--keep FILE]

Serves HTTP on this machine. A program is started once and snapshot; each request is answered by a
fork of it that nobody used before, or that was reset after its last request.

  --listen ADDRESS   address and port (127.0.0.1:8080; port 0 takes a free one)
  --sandboxes N      how many there are at most (8)
  --threads N        how many requests are answered at once (2)
  --requests N       ends after so many requests (never)
  --keep FILE        keeps the snapshot in a file, or begins from it if it is there
  --help             this text

Try these, some of them twice:
  curl http://127.0.0.1:8080/prime/97
  curl http://127.0.0.1:8080/ -d 'my secret'     the next request does not see it
  curl http://127.0.0.1:8080/crash               an error for this request only
  curl http://127.0.0.1:8080/loop                so is what takes longer than 10 seconds
";

struct Options {
    listen: String,
    sandboxes: usize,
    threads: u64,
    requests: u64,
    keep: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(options) = options(std::env::args().skip(1))? else {
        print!("{HELP}");
        return Ok(());
    };
    let warm = started(options.keep.as_deref())?.snapshot()?;
    if let Some(file) = &options.keep {
        warm.save(file)?;
    }
    let pool = Pool::new(&warm, options.sandboxes)?;
    let server = Server::http(&options.listen).map_err(|error| error.to_string())?;
    println!("serving on http://{}", server.server_addr());
    std::io::stdout().flush()?;

    let answered = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                // Each other thread waits in `recv` until it is woken.
                while let Ok(request) = server.recv() {
                    serve(&pool, request);
                    if answered.fetch_add(1, Relaxed) + 1 >= options.requests {
                        (0..options.threads).for_each(|_| server.unblock());
                        break;
                    }
                }
            });
        }
    });
    let statistics = pool.statistics()?;
    println!("{} forks, {} resets", statistics.forks, statistics.resets);
    Ok(())
}

/// The program, ready to answer.
fn started(file: Option<&str>) -> Result<Sandbox, Box<dyn Error>> {
    if let Some(file) = file.filter(|file| std::fs::exists(file).unwrap_or(false)) {
        return Ok(Sandbox::saved(file).timeout(LONGEST).build()?);
    }
    let mut app = Sandbox::image(PROGRAM).timeout(LONGEST).build()?;
    app.start()?;
    Ok(app)
}

/// Answers one request.
fn serve(pool: &Pool, mut request: Request) {
    let mut body = String::new();
    let text = request.as_reader().take(MOST_BODY).read_to_string(&mut body);
    let answer = match text {
        Ok(_) => respond(pool, request.url(), &body),
        Err(error) => Err(error.into()),
    };
    let (status, text) = match answer {
        Ok(text) => (200, text),
        Err(error) => (500, format!("{error}\n")),
    };
    // Whoever does not wait for the answer does not get it.
    let _ = request.respond(Response::from_string(text).with_status_code(status));
}

/// What a sandbox answers that is as it was started. It is reset when it goes back to the pool.
fn respond(pool: &Pool, path: &str, body: &str) -> Result<String, Box<dyn Error>> {
    let mut app = pool.take()?;
    Ok(app.call("respond", (path, body))?)
}

/// `None` asks for help.
fn options(mut words: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        listen: "127.0.0.1:8080".into(),
        sandboxes: 8,
        threads: 2,
        requests: u64::MAX,
        keep: None,
    };
    while let Some(word) = words.next() {
        let (name, value) = arguments::split(&word);
        if name == "--help" {
            return Ok(None);
        }
        let value = value.map(str::to_owned).or_else(|| words.next());
        let value = value.ok_or_else(|| format!("{name}: a value is missing; try --help"))?;
        let number = |most| arguments::number(name, &value, 1..=most);
        match name {
            "--keep" => options.keep = Some(value),
            "--listen" => options.listen = value,
            "--requests" => options.requests = number(u64::MAX)?,
            "--sandboxes" => options.sandboxes = number(10_000)? as usize,
            "--threads" => options.threads = number(1_000)?,
            _ => return Err(format!("{name}: no such option; try --help")),
        }
    }
    Ok(Some(options))
}
