//! A C program in a sandbox, whose function the host calls and which calls the host.
//!
//! `cargo run --example hostcall` runs `guests/hostcall.c`, an ordinary static Linux program, in a
//! micro-VM without a kernel, up to where it says that it is ready; then it calls its function
//! `score`, which asks the host what each word is worth.

use std::time::Duration;

use vmm_sandbox::Sandbox;

/// Compiled by `build.rs`; `Sandbox::program` takes a path.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/hostcall"));

fn main() -> vmm_sandbox::Result<()> {
    let mut app = Sandbox::image(PROGRAM)
        .host_fn("points", |word: &str| word.len() as i64)
        .timeout(Duration::from_secs(10))
        .build()?;
    app.start()?;
    let score: i64 = app.call("score", ("the quick brown fox",))?;
    println!("score: {score}");
    Ok(())
}
