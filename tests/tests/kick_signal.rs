//! The kick signal belongs to the embedder if it wants it. Alone in its process, because the choice
//! is process-wide.
#![expect(unsafe_code, reason = "signal dispositions have no safe form")]
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

use std::sync::Arc;

use vmm_core::{
    ErrorKind, Machine,
    boot::Flat,
    hv::{DEFAULT_KICK_SIGNAL, Hypervisor, set_kick_signal},
    kvm::Kvm,
    machine::Outcome,
};
use vmm_devices::DebugExit;

#[test]
fn a_signal_with_a_handler_is_left_alone_and_another_can_be_chosen() {
    let test = "a_signal_with_a_handler_is_left_alone_and_another_can_be_chosen";
    // Not the probe: it runs guests, and with them installs the default.
    let Ok(kvm) = Kvm::open() else {
        println!("skipped: {test}: no /dev/kvm here");
        return;
    };
    let kvm: Arc<dyn Hypervisor> = kvm.into();
    extern "C" fn theirs(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = theirs;
    let default = DEFAULT_KICK_SIGNAL;
    // SAFETY: an empty handler for a signal nothing else here uses.
    unsafe { libc::signal(default, handler as libc::sighandler_t) };

    let machine = || {
        Machine::builder()
            .hypervisor(Arc::clone(&kvm))
            .memory(1 << 20)
            .boot(Flat::real_mode([0xb0, 7, 0xe6, 0xf4]))
            .device(DebugExit::new())
            .build()
            .unwrap()
    };
    let error = machine().run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadConfig, "{error}");
    assert!(error.to_string().contains("set_kick_signal"), "{error}");
    assert_eq!(set_kick_signal(default).unwrap_err().kind(), ErrorKind::BadConfig);
    assert_eq!(set_kick_signal(libc::SIGKILL).unwrap_err().kind(), ErrorKind::BadConfig);
    let real_time = set_kick_signal(libc::SIGRTMIN()).unwrap_err();
    assert_eq!(real_time.kind(), ErrorKind::BadConfig);
    assert_eq!(set_kick_signal(-1).unwrap_err().kind(), ErrorKind::BadConfig);

    set_kick_signal(libc::SIGUSR2).unwrap();
    assert_eq!(machine().run().unwrap(), Outcome::PowerOff(7));
    set_kick_signal(libc::SIGUSR2).unwrap();
    assert_eq!(set_kick_signal(default).unwrap_err().kind(), ErrorKind::WrongState);
}
