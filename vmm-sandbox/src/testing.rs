//! What fuzz targets and property tests run: hostile input where a program is taken from, and where
//! its system calls are answered. No instruction is executed, so that millions of cases are cheap.
//!
//! Each function panics if anything of the host suffers: that is a finding. Not part of the API.
#![allow(missing_docs, reason = "for our own tests")]
#![expect(clippy::expect_used, reason = "a test says what went wrong by panicking")]

mod image;
mod input;
mod saved;

use std::{ops::Range, path::Path, sync::Arc};

use vmm_core::{
    ErrorKind, host,
    hv::{Hypervisor, VmConfig, script::Script},
};

use self::input::Input;
pub use self::saved::snapshot;
use crate::{
    Access, Sandbox,
    call::{CALL_HOST, HostFunctions},
    load::{self, Program, Source, Start},
    space::{PAGE, Protection, Space},
    syscall,
};

/// All memory of the program, and of its files.
const MEMORY: u64 = 4 << 20;
const FILES: u64 = 256 << 10;
/// Where calls find what they point to: pages behind which there is nothing.
const SCRATCH: Range<u64> = 0x20_0000..0x20_4000;
const MOST_CALLS: usize = 200;
const WAITS: [libc::c_long; 6] = [
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_select,
];

/// Makes the system calls that the input says, with `/granted` a directory of the host if one is
/// given.
///
/// After each call and at the end all that the host keeps for the program is within its limits, and
/// consistent; the program's death gives back everything.
pub fn calls(input: &[u8], granted: Option<&Path>) {
    let mut builder = Sandbox::image(image::program())
        .hypervisor(host::named("soft").expect("the CPU in software is everywhere"))
        .memory(MEMORY)
        .file_limit(FILES)
        .output_limit(1 << 20)
        .stdin("what comes in");
    if let Some(directory) = granted {
        builder = builder.mount(directory, "/granted", Access::ReadWrite);
    }
    let mut sandbox = builder.build().expect("a sandbox");
    let canceller = sandbox.canceller();
    let (process, cpu) = sandbox.parts();
    let len = SCRATCH.end - SCRATCH.start;
    process.space.map(SCRATCH.start, len, Protection::READ_WRITE).expect("room for arguments");
    for (at, text) in input::texts() {
        process.space.write(at, text).expect("room for arguments");
    }
    let mut functions = HostFunctions::default();
    functions.add("bytes".into(), |bytes: &[u8], n: i64| bytes.repeat((n & 3) as usize));
    functions.add("text".into(), |text: &str| text.len() as f64);
    let mut input = Input::new(input);
    for _ in 0..MOST_CALLS {
        let Some(step) = input.step(&process.space) else { break };
        let call = match step {
            input::Step::Call(call) => call,
            input::Step::Poke(at, bytes) => {
                // It may have unmapped its arguments.
                let _ = process.space.write(at, &bytes);
                continue;
            }
        };
        // What would wait ends at once.
        match WAITS.contains(&(call.number as libc::c_long)) {
            true => canceller.cancel(),
            false => drop(process.watch.take_cause()),
        }
        let rax = match call.number {
            CALL_HOST => functions.call(&process.space, &call).map_or(0, syscall::value),
            _ => syscall::answer(process, cpu, &call),
        };
        input.answered(rax);
        assert!(rax.cast_signed() >= -4095, "{call:x?}: {rax:#x}");
        assert!(process.space.used() <= MEMORY, "{call:x?}: {:#x}", process.space.used());
        assert!(process.namespace.room.left() <= FILES, "{call:x?}");
        // The processor would have made the edits.
        process.space.settle().expect("memory for the VM");
        if process.ended.take().is_some() {
            break;
        }
    }
    process.space.check();
    let room = Arc::clone(&process.namespace.room);
    drop(sandbox);
    assert_eq!(room.left(), FILES, "files in memory that nobody has");
}

/// Has ring 0 of a sandbox that is ready execute a function of its program, and says how that
/// ended. No program gets there: this is what it could do if it did.
///
/// # Errors
/// `Host` if the back end fails.
pub fn ring0(sandbox: &mut Sandbox, function: &str, argument: u64) -> vmm_core::Result<String> {
    sandbox.enter_ring0(function, argument)
}

/// The numbers of the system calls that are answered.
pub fn numbers() -> impl Iterator<Item = u64> {
    syscall::numbers()
}

/// The name of a system call.
pub fn name(number: u64) -> &'static str {
    syscall::name(number)
}

/// Loads a program: bytes as they are, or a good one with changes. It is refused as `BadImage` or
/// `BadConfig`, or all of it is where it says.
pub fn program(input: &[u8]) {
    let image = match input.split_first() {
        Some((0, rest)) => rest.to_vec(),
        Some((_, rest)) => image::changed(rest),
        None => return,
    };
    let refused = |error: vmm_core::Error| {
        assert!(matches!(error.kind(), ErrorKind::BadConfig | ErrorKind::BadImage), "{error}");
    };
    let source = Source::from(image);
    let mut program = match Program::parse(&source) {
        Ok(program) => program,
        Err(error) => return refused(error),
    };
    for name in ["main", "missing", ""] {
        program.symbol(name);
    }
    let vm = Script::new([]).create_vm(&VmConfig { vcpus: 1, irq: None }).expect("a VM");
    let mut space = Space::new(vm, MEMORY).expect("an address space");
    let start = Start {
        arguments: &[b"program".to_vec()],
        environment: &[],
        path: b"program",
        stack_size: MEMORY / 8,
        random: [0; 16],
        uid: 0,
        gid: 0,
        hardware: 0,
    };
    match load::load(&mut space, &program, &source, &start) {
        Ok((layout, _)) => assert!(layout.heap % PAGE == 0 && space.used() <= MEMORY),
        Err(error) => refused(error),
    }
    space.check();
}

/// All registers of a sandbox that stands still, but for the time.
///
/// # Errors
/// What the back end says.
pub fn registers(sandbox: &mut Sandbox) -> vmm_core::Result<String> {
    sandbox.parts().1.registers()
}

/// All of a sandbox's memory, a number for the content of each page: the stub and the page tables
/// are part of it.
pub fn pages(sandbox: &mut Sandbox) -> Vec<u64> {
    sandbox.parts().0.space.pages()
}
