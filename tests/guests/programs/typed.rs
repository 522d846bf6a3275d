//! Functions with every type that the crate `vmm-guest` passes, and calls of the host with each.

use std::{ffi::CStr, sync::Mutex};

use vmm_guest::{Error, call, call_into, export, identity, ready};

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

export! {
    fn add(a: i64, b: i64) -> i64 {
        a + b
    }

    fn narrow(a: i8, b: u8, c: i16, d: u16, e: i32, f: u32) -> String {
        format!("{a} {b} {c} {d} {e} {f}")
    }

    fn scale(x: f64, by: i64, and: f32) -> f64 {
        x * by as f64 + f64::from(and)
    }

    fn is_even(n: u32) -> bool {
        n % 2 == 0
    }

    /// Five words before the last slice: its address is the last in a register.
    fn sixth(a: &[u8], b: &[u8], c: i64, bytes: &[u8], end: i64) -> i64 {
        c + (a.len() + b.len()) as i64 + bytes.iter().map(|byte| i64::from(*byte)).sum::<i64>() + end
    }

    pub(crate) fn reverse(bytes: &mut [u8]) {
        bytes.reverse();
    }

    fn length(text: &CStr,) -> usize {
        text.count_bytes()
    }

    fn fixed() -> &'static CStr {
        c"from the program"
    }

    fn remember(text: &str) {
        SEEN.lock().unwrap().push(text.to_owned());
    }

    fn remembered() -> String {
        SEEN.lock().unwrap().join(",")
    }

    /// What each kind of call of the host comes to.
    fn ask(key: &str) -> String {
        let mut buffer = [0; 16];
        let value = call_into("lookup", (key,), &mut buffer).map(|v| v.escape_ascii().to_string());
        let sum = call::<f64>("sum", (40_i64, 0.5));
        let wrong = call::<i64>("sum", (40_i64, 0.5));
        let count = call::<u64>("count", (b"abc\xff".as_slice(), true));
        format!("{value:?} {sum:?} {wrong:?} {count:?}")
    }

    /// What calls that cannot work come to.
    fn ask_wrongly() -> String {
        let long = "x".repeat(300);
        let errors = [
            call::<()>("nobody", ()),
            call("no\0body", ()),
            call(&long, ()),
            call("sum", (1_i64,)),
            call("sum", ("text", 0.5)),
            call_into("sum", (1_i64, 0.5), &mut [0; 4]).map(drop),
        ];
        let named = errors.map(|error| error.map_or_else(|error| format!("{error:?}"), |()| "none".into()));
        format!("{} {:?}", named.join(" "), ready())
    }

    fn who(bytes: &mut [u8]) {
        bytes.copy_from_slice(&identity());
    }

    fn panics(why: &str) {
        panic!("{why}");
    }
}

fn main() -> Result<(), Error> {
    let own = std::env::args().count();
    // The caller's stack stays while functions are called.
    SEEN.lock().unwrap().push(format!("{own} arguments"));
    assert_eq!(add(2, 3), 5);
    reverse(&mut []);
    Err(ready())
}
