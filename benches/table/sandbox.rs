//! Calls of functions in sandboxes, and sandboxes made, run and dropped.
//!
//! Calls stand beside the cheapest exit there is, a port write by ring 0 and nothing around it.

use vmm_sandbox::{Builder, Outcome, Sandbox};

use crate::{
    exit,
    sample::{Samples, nanoseconds, pairs, print, print_pair},
};

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox/sandbox"));

/// Calls in one sample.
const CALLS: u64 = 500;

pub(crate) fn rows() {
    let mut app = builder().build().unwrap();
    assert_eq!(app.start().unwrap(), Outcome::Ready);
    let row = pairs(40, calls(&mut app, "nothing"), exit::bare_port());
    print_pair("sandbox: call of an empty function", &row);
    let row = pairs(40, calls(&mut app, "host"), exit::bare_port());
    print_pair("sandbox: call with one host call inside", &row);
    let system_call = |app: &mut Sandbox| {
        nanoseconds(|| app.call::<()>("call_kernel", (CALLS as i64,)).unwrap()) / CALLS as f64
    };
    let row = pairs(40, || system_call(&mut app), exit::bare_port());
    print_pair("sandbox: getppid", &row);
    let whole = || {
        nanoseconds(|| {
            let mut sandbox = builder().args(["bench", "end"]).build().unwrap();
            assert_eq!(sandbox.start().unwrap(), Outcome::Exited(0));
        })
    };
    print("sandbox: made, run to its end, dropped", &Samples::take(40, whole));
}

fn builder() -> Builder {
    Sandbox::image(PROGRAM).host_fn("nothing", || ())
}

/// Nanoseconds for one call.
fn calls(app: &mut Sandbox, name: &'static str) -> impl FnMut() -> f64 {
    move || {
        let time = nanoseconds(|| (0..CALLS).for_each(|_| app.call::<()>(name, ()).unwrap()));
        time / CALLS as f64
    }
}
