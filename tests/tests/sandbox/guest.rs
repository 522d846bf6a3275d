//! Programs in Rust that use the crate `vmm-guest`.

use std::collections::BTreeSet;

use vmm_core::ErrorKind;
use vmm_sandbox::{Builder, Cause, Outcome, Sandbox, State};

use crate::can_run;

/// What `build.rs` made of a source in `guests/programs`, or nothing if it could not.
macro_rules! rust {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/programs/", $name)).as_slice()
    };
}

/// A sandbox that is ready.
fn ready(builder: Builder) -> Sandbox {
    let mut sandbox = builder.hypervisor(crate::backend()).build().unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Ready, "{:?}", sandbox.take_stderr());
    sandbox
}

fn can_run_rust(test: &str, image: &[u8]) -> bool {
    if image.is_empty() {
        println!(
            "skipped: {test} (a static C library, Debian: libc6-dev): its package could not be had"
        );
        return false;
    }
    can_run(test)
}

/// The host's side of `typed.rs`.
fn typed() -> Builder {
    Sandbox::image(rust!("typed"))
        .args(["typed", "one"])
        .host_fn("lookup", |key: &str| key.to_uppercase().repeat(key.len()))
        .host_fn("sum", |n: i64, plus: f64| n as f64 + plus)
        .host_fn("count", |bytes: &[u8], more: bool| bytes.len() as u64 + u64::from(more))
}

#[test]
fn the_program_of_the_readme_scores() {
    let image = rust!("score");
    if !can_run_rust("the_program_of_the_readme_scores", image) {
        return;
    }
    let source = include_str!("../../guests/programs/score.rs");
    for text in
        [include_str!("../../../README.md"), include_str!("../../../vmm-sandbox/guest/src/lib.rs")]
    {
        let text = text.replace("//! ", "").replace("//!", "");
        assert!(text.contains(source), "the program is shown as it is:\n{source}");
    }
    let points = |word: &str| word.len() as i64;
    let mut app = ready(Sandbox::image(image).host_fn("points", points));
    assert_eq!(app.call::<i64>("score", ("the quick brown fox",)).unwrap(), 16);
    let mut app = ready(Sandbox::image(image));
    assert_eq!(app.call::<i64>("score", ("nobody knows",)).unwrap(), 0);
}

#[test]
fn each_type_arrives_in_a_program_in_rust() {
    if !can_run_rust("each_type_arrives_in_a_program_in_rust", rust!("typed")) {
        return;
    }
    let mut app = ready(typed());
    assert_eq!(app.call::<i64>("add", (-3_i64, 45_i64)).unwrap(), 42);
    let numbers = (-1_i8, 255_u8, -300_i16, 65_535_u16, i32::MIN, u32::MAX);
    let said: String = app.call("narrow", numbers).unwrap();
    assert_eq!(said, "-1 255 -300 65535 -2147483648 4294967295");
    assert_eq!(app.call::<f64>("scale", (1.5, -4_i64, 0.25_f32)).unwrap(), -5.75);
    assert!(!app.call::<bool>("is_even", (5_u32,)).unwrap());
    let bytes = [1_u8, 2, 3];
    let many = (&bytes[..1], &bytes[..0], 1_i64, bytes.as_slice(), 100_i64);
    assert_eq!(app.call::<i64>("sixth", many).unwrap(), 108);
    let mut bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
    app.call::<()>("reverse", (bytes.as_mut_slice(),)).unwrap();
    assert_eq!(bytes, reversed);
    app.call::<()>("reverse", ([0_u8; 0].as_mut_slice(),)).unwrap();
    assert_eq!(app.call::<u64>("length", ("four",)).unwrap(), 4);
    assert_eq!(app.call::<String>("fixed", ()).unwrap(), "from the program");
    for word in ["a", "b\u{e9}", ""] {
        app.call::<()>("remember", (word,)).unwrap();
    }
    assert_eq!(app.call::<String>("remembered", ()).unwrap(), "2 arguments,a,b\u{e9},");
}

#[test]
fn a_program_in_rust_calls_its_host() {
    if !can_run_rust("a_program_in_rust_calls_its_host", rust!("typed")) {
        return;
    }
    let mut app = ready(typed());
    let ask = |app: &mut Sandbox, key: &str| app.call::<String>("ask", (key,)).unwrap();
    assert_eq!(ask(&mut app, "abc"), r#"Ok("ABCABCABC") Ok(40.5) Err(Result) Ok(5)"#);
    assert!(ask(&mut app, "abcde").starts_with("Err(Cut(25)) "));
    let said: String = app.call("ask_wrongly", ()).unwrap();
    assert_eq!(said, "NotFound NotFound NotFound Arguments Arguments Result NoSandbox");
}

#[test]
fn a_program_in_rust_knows_which_sandbox_it_is_in() {
    let test = "a_program_in_rust_knows_which_sandbox_it_is_in";
    if !can_run_rust(test, rust!("typed")) || !can_run_rust(test, rust!("bare")) {
        return;
    }
    let bare = Sandbox::image(rust!("bare")).host_fn("double", |n: i64| 2 * n);
    for mut app in [ready(typed()), ready(bare)] {
        let mut seen = BTreeSet::new();
        let mut look = |app: &mut Sandbox| {
            let mut identity = [0xff; 16];
            app.call::<()>("who", (identity.as_mut_slice(),)).unwrap();
            assert_eq!(identity, app.identity());
            seen.insert(identity);
        };
        look(&mut app);
        let snapshot = app.snapshot().unwrap();
        let mut child = snapshot.fork().unwrap();
        look(&mut child);
        look(&mut child);
        child.reset(&snapshot).unwrap();
        look(&mut child);
        look(&mut snapshot.fork().unwrap());
        look(&mut app);
        assert_eq!((seen.len(), seen.first()), (4, Some(&[0; 16])));
    }
}

#[test]
fn a_panic_of_a_program_in_rust_is_its_own() {
    if !can_run_rust("a_panic_of_a_program_in_rust_is_its_own", rust!("typed")) {
        return;
    }
    let mut app = ready(typed());
    let error = app.call::<()>("panics", ("on purpose",)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    assert_eq!(app.state(), &State::Poisoned(Cause::Signal(libc::SIGABRT)));
    let said = String::from_utf8(app.take_stderr()).unwrap();
    assert!(said.contains("on purpose"), "{said}");
}

#[test]
fn a_program_in_rust_needs_no_std() {
    if !can_run_rust("a_program_in_rust_needs_no_std", rust!("bare")) {
        return;
    }
    let mut app = ready(Sandbox::image(rust!("bare")).host_fn("double", |n: i64| 2 * n));
    assert_eq!(app.call::<i64>("twice", (21_i64,)).unwrap(), 42);
    assert_eq!(app.call::<u64>("longest", ("the quick fox",)).unwrap(), 5);
}
