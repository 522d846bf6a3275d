//! Programs from start to end.

use vmm_sandbox::{Outcome, Sandbox};

use crate::{can_run, program};

#[test]
fn hello_world_says_hello() {
    if !can_run("hello_world_says_hello") {
        return;
    }
    let mut sandbox = Sandbox::image(program!("hello"))
        .hypervisor(crate::backend())
        .args(["hello", "you", "there"])
        .build()
        .unwrap();
    let outcome = sandbox.start().unwrap();
    println!("{outcome:?} {:?}", sandbox.statistics());
    assert_eq!(String::from_utf8(sandbox.take_stdout()).unwrap(), "hello, you!\nhello, there!\n");
    assert_eq!(sandbox.take_stderr(), b"2 said\n");
    assert_eq!(outcome, Outcome::Exited(2));
}
