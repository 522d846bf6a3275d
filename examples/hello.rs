//! A guest that computes: the smallest complete use of the library.
//!
//! `cargo run --example hello` boots 64-bit C code without a kernel (`guests/hello.c`), sends it a
//! number over the serial port, shows what it answers, and exits with the code the guest ends
//! itself with. `-- --backend soft` runs it on the CPU in software, `kvm` on KVM.

use std::process::ExitCode;

use vmm_core::{
    Error, ErrorKind, Machine, Result,
    boot::Flat,
    host::{self, Need},
    machine::Outcome,
};
use vmm_devices::{DebugExit, Serial};

/// Compiled by `build.rs`.
const GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello.bin"));

fn main() -> ExitCode {
    match hello() {
        Ok(Outcome::PowerOff(code)) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Ok(outcome) => fail(&format!("the guest did not finish: {outcome}")),
        Err(error) => fail(&error.to_string()),
    }
}

fn hello() -> Result<Outcome> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let choice = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // Ring 0 code counts as a kernel, however small. The choice comes from measuring this host.
        [] => host::best(Need::Kernel)?,
        ["--backend", name] => host::named(name)?,
        _ => return Err(Error::bad_config("usage: hello [--backend kvm|soft]")),
    };
    println!("host:  running on {} ({})", choice.name(), choice.reason());

    // Handles are taken before a device is plugged; this one may go to another thread.
    let serial = Serial::stdout();
    let input = serial.input();

    let machine = Machine::builder()
        .hypervisor(choice)
        .memory(1 << 20)
        .interrupts(None)
        .boot(Flat::long_mode(GUEST))
        .device(serial)
        .device(DebugExit::new())
        .build()?;

    println!("host:  what about 27?");
    input.send(b"27\n");
    loop {
        match machine.run() {
            // Someone typed Ctrl-Z and fg, say. Nothing is lost.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            end => return end,
        }
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("host:  {why}");
    ExitCode::FAILURE
}
