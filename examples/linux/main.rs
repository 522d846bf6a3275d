//! Boots Linux with this terminal as its console.
//!
//! `cargo run --example linux -- --help` has the options and the keys. The machine is described in
//! [`describe`]; the rest is what makes a program of it: [`options`], the [`terminal`], its
//! [`keyboard`] and [`keys`], and the [`session`] that ends a guest by Ctrl-A x or a signal.

#[path = "../arguments/mod.rs"]
mod arguments;
mod keyboard;
mod keys;
mod options;
mod session;
mod terminal;

use std::{
    env,
    error::Error,
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    process::ExitCode,
    sync::Arc,
};

use vmm_core::{
    Machine,
    boot::Linux,
    host::{self, Need},
    hv::Hypervisor,
    kvm::Kvm,
    machine::{Accounting, Builder, Outcome},
    soft::Soft,
};
use vmm_devices::{Block, Console, I8042, Overlay, RawFile, Rng, Rtc, Serial, Stream};

use self::{
    keyboard::Keyboard,
    options::{Access, Backend, Disk, Options, Request},
    session::{End, Session},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match start() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("linux: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<u8> {
    match options::parse(env::args_os().skip(1))? {
        Request::Boot(options) => linux(&options),
        Request::Help => {
            io::stdout().write_all(options::help().as_bytes())?;
            Ok(0)
        }
    }
}

/// Runs the machine until its guest ends otherwise than by a reset; gives the status.
fn linux(options: &Options) -> Result<u8> {
    let hypervisor = hypervisor(options.backend)?;
    let session = Session::start()?;
    if session.terminal().is_there() {
        eprintln!("linux: Ctrl-A x quits, Ctrl-A h shows all keys");
    }
    let mut machine = describe(options, &hypervisor)?;
    machine = match (options.console, session.terminal().is_there()) {
        (true, _) => machine.device(Serial::stdout()).device(console(&session)?),
        (false, true) => machine.device(Serial::stdout().with_input(Keyboard::stdin(&session)?)),
        (false, false) => machine.device(Serial::stdio()),
    };
    let machine = machine.build()?;
    let outcome = loop {
        match session.run(&machine) {
            Ok(Outcome::Reset) if options.reboot && session.ending().is_none() => {
                eprintln!("linux: the guest resets");
                // Fails also if the machine was stopped just now.
                if let Err(error) = machine.reset() {
                    break Err(error.into());
                }
            }
            outcome => break outcome,
        }
    };
    if let Some(exits) = machine.exits() {
        eprint!("{exits}");
    }
    match (outcome, session.ending()) {
        (Ok(Outcome::PowerOff(code)), _) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        // Whatever else came of a machine that was being stopped.
        (_, Some(End::Quit)) => Ok(0),
        (_, Some(End::Signal(signal))) => session::die_of(signal),
        (Ok(outcome), None) => Err(format!("guest: {outcome}").into()),
        (Err(error), None) => Err(error),
    }
}

fn hypervisor(backend: Backend) -> Result<Arc<dyn Hypervisor>> {
    match backend {
        Backend::Auto => {
            let choice = host::best(Need::Kernel)?;
            eprintln!("linux: running on {} ({})", choice.name(), choice.reason());
            Ok(choice.into())
        }
        Backend::Kvm => Ok(Arc::new(Kvm::open()?)),
        Backend::Soft => Ok(Arc::new(Soft::new()?)),
    }
}

/// A console on standard input and output, as large as the terminal.
fn console(session: &Arc<Session>) -> Result<Console> {
    let console = match session.terminal().is_there() {
        // Without the buffer of io::stdout(), and ready or not: the console asks its descriptor.
        true => {
            let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            Console::new(Stream::new(Keyboard::stdin(session)?, stdout))?
        }
        false => Console::stdio()?,
    };
    session.has_console(console.handle());
    Ok(console)
}

fn describe(options: &Options, hypervisor: &Arc<dyn Hypervisor>) -> Result<Builder> {
    let mut linux =
        Linux::kernel(&options.kernel).cmdline(&options.cmdline).protocol(options.protocol);
    if let Some(initrd) = &options.initrd {
        linux = linux.initrd(initrd);
    }
    let mut machine = Machine::builder()
        .hypervisor(Arc::clone(hypervisor))
        .memory(options.memory << 20)
        .vcpus(options.cpus)
        .boot(linux)
        .device(Rtc::now())
        .device(I8042::new());
    for disk in &options.disks {
        machine = machine.device(open(disk)?);
    }
    if options.rng {
        machine = machine.device(Rng::new()?);
    }
    Ok(if options.stats { machine.account(Accounting::Times) } else { machine })
}

fn open(disk: &Disk) -> vmm_core::Result<Block> {
    let path = &disk.path;
    match &disk.access {
        Access::Write => Block::open(path),
        Access::ReadOnly => Block::open_read_only(path),
        Access::Overlay(top) => {
            let base = RawFile::open_read_only(path)?;
            Block::image(match top {
                None => Overlay::temporary(base)?,
                Some(top) if top.exists() => Overlay::open(top, base)?,
                Some(top) => Overlay::create(top, base)?,
            })
        }
    }
}
