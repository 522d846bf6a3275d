//! Calls in both directions.

use std::ops::ControlFlow;

use vmm_core::ErrorKind;
use vmm_sandbox::{Builder, Cause, Outcome, Sandbox, State};

use crate::{can_run, program};

fn builder() -> Builder {
    Sandbox::image(program!("calls"))
        .hypervisor(crate::backend())
        .host_fn("lookup", |key: &str| key.to_uppercase().repeat(key.len()))
        .host_fn("sum", |n: i64, plus: f64| n as f64 + plus)
        .host_fn("panics", || -> () { panic!("on purpose") })
}

/// A sandbox that is ready, and has said so.
fn ready() -> Sandbox {
    let mut sandbox = builder().build().unwrap();
    assert_eq!(sandbox.start().unwrap(), Outcome::Ready);
    assert_eq!(sandbox.take_stdout(), b"about to be ready\n");
    sandbox
}

#[test]
fn arguments_and_results_of_each_type_arrive() {
    if !can_run("arguments_and_results_of_each_type_arrive") {
        return;
    }
    let mut app = ready();
    assert_eq!(app.call::<i64>("add", (-3_i64, 45_i64)).unwrap(), 42);
    assert_eq!(app.call::<f64>("scale", (1.5, -4_i64, 0.25)).unwrap(), -5.75);
    assert_eq!(app.call::<f32>("halve", (3.0_f32,)).unwrap(), 1.5);
    assert!(app.call::<bool>("is_even", (4_u32,)).unwrap());
    assert!(!app.call::<bool>("is_even", (5_u32,)).unwrap());
    assert_eq!(app.call::<i8>("narrow", (0x1ff_i32,)).unwrap(), -1);
    assert_eq!(app.call::<String>("greet", ("you",)).unwrap(), "hello, you");
    let mut bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
    assert_eq!(app.call::<u64>("reverse", (bytes.as_mut_slice(),)).unwrap(), 100_000);
    assert_eq!(bytes, reversed);
    assert_eq!(app.call::<f64>("total", ()).unwrap(), 50_000.0);
    let digits = (1_i64, 2_i64, 3_i64, 4_i64, 5_i64, 6_i64, 7_i64, 8_i64);
    assert_eq!(app.call::<i64>("many", digits).unwrap(), 87_654_321);
    app.call::<()>("nothing", ()).unwrap();
    for n in 1..=1000 {
        assert_eq!(app.call::<i64>("counted", ()).unwrap(), n);
    }
}

#[test]
fn functions_of_the_host_are_called_with_copies() {
    if !can_run("functions_of_the_host_are_called_with_copies") {
        return;
    }
    let mut app = ready();
    assert_eq!(app.call::<i64>("ask", ("abc",)).unwrap(), 9);
    assert_eq!(app.take_stdout(), b"abc is ABCABCABC\n");
    assert_eq!(app.call::<i64>("ask", ("abcde",)).unwrap(), 25);
    assert_eq!(app.take_stdout(), b"abcde is ABCDEABCDEABCDEA\n");
    assert_eq!(app.call::<i64>("ask_sum", (4_i64,)).unwrap(), 9);
    let answers = (0..9_i64).map(|how| app.call::<i64>("ask_wrongly", (how,)).unwrap());
    use libc::{E2BIG, EFAULT, EINVAL, ENOENT};
    let errors = [ENOENT, EINVAL, EFAULT, EFAULT, E2BIG, EFAULT, EINVAL, EFAULT, E2BIG];
    assert_eq!(answers.collect::<Vec<_>>(), errors.map(|errno| -i64::from(errno)));
    assert!(app.call::<bool>("again", ()).unwrap());
    assert_eq!(app.state(), &State::Ready);
}

#[test]
fn what_does_not_return_poisons_and_says_why() {
    if !can_run("what_does_not_return_poisons_and_says_why") {
        return;
    }
    let mut app = ready();
    let error = app.call::<()>("leave", (300_i32,)).unwrap_err();
    assert_eq!((error.kind(), app.state()), (ErrorKind::Poisoned, &State::Exited(44)), "{error}");
    assert_eq!(app.call::<()>("nothing", ()).unwrap_err().kind(), ErrorKind::WrongState);

    let mut app = ready();
    let error = app.call::<()>("crash", ()).unwrap_err();
    println!("{error}");
    let State::Poisoned(Cause::Fault(fault)) = app.state() else { panic!("{:?}", app.state()) };
    assert_eq!(fault.address, Some(16));
    assert_eq!(app.start().unwrap_err().kind(), ErrorKind::WrongState);

    let mut app = builder().interruptible(|| ControlFlow::Break(())).build().unwrap();
    // A slow start may be interrupted too.
    if app.start().unwrap() == Outcome::Ready {
        let error = app.call::<()>("spin", ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    }
    assert_eq!(app.state(), &State::Poisoned(Cause::Interrupted));

    let mut app = ready();
    app.call::<()>("panic_host", ()).unwrap_err();
    let cause = Cause::HostFunction("panics".into(), "on purpose".into());
    assert_eq!(app.state(), &State::Poisoned(cause));
}

#[test]
fn misuse_is_an_error_of_its_kind_and_harmless() {
    if !can_run("misuse_is_an_error_of_its_kind_and_harmless") {
        return;
    }
    let mut app = builder().build().unwrap();
    assert_eq!(app.call::<()>("nothing", ()).unwrap_err().kind(), ErrorKind::WrongState);
    let mut app = ready();
    assert_eq!(app.start().unwrap_err().kind(), ErrorKind::WrongState);
    assert_eq!(app.call::<()>("no_such_function", ()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(app.call::<()>("greet", ("a\0b",)).unwrap_err().kind(), ErrorKind::BadConfig);
    let large = vec![0; 65 << 20];
    let error = app.call::<()>("reverse", (large.as_slice(),)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadConfig, "{error}");
    let error = app.call::<String>("add", (1_i64, 1_i64)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuestMemory, "{error}");
    assert_eq!(app.call::<i64>("add", (1_i64, 1_i64)).unwrap(), 2);

    let mut app = builder().args(["calls", "end"]).build().unwrap();
    assert_eq!(app.start().unwrap(), Outcome::Exited(7));
    assert_eq!(app.call::<()>("nothing", ()).unwrap_err().kind(), ErrorKind::WrongState);
}

#[test]
fn a_program_for_another_version_of_the_header_is_refused() {
    let mut image = program!("calls").to_vec();
    let note = [4_u32.to_le_bytes(), 4_u32.to_le_bytes(), 1_u32.to_le_bytes(), *b"vmm\0"].concat();
    let at = image.windows(16).position(|window| window == note).expect("the note");
    image[at + 16] = 2;
    let error = Sandbox::image(image).hypervisor(crate::backend()).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadImage);
    assert!(error.to_string().contains("version 2"), "{error}");
}
