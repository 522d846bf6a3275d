use vmm_guest::{Error, call, export, ready};

export! {
    /// Called by the host: `app.call("score", ("the quick brown fox",))`.
    fn score(text: &str) -> i64 {
        text.split(' ').map(|word| call("points", (word,)).unwrap_or(0)).sum()
    }
}

fn main() -> Result<(), Error> {
    Err(ready()) // It returns only outside of a sandbox.
}
