//! Runs a unikernel: looks at its headers, says which boot protocol they ask for, and starts it.

use std::{
    env,
    error::Error,
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
};

use vmm_core::{
    ErrorKind, Machine,
    boot::{self, Elf64, Found, Linux, Multiboot, Protocol, Way},
    host::{self, Need},
    hv::Hypervisor,
    machine::{Builder, Outcome},
};
use vmm_devices::{DebugExit, I8042, Rtc, Serial};

const HELP: &str = "\
Runs a unikernel, or any kernel that brings all it needs, by the boot protocol its headers ask for.

Usage: cargo run --example unikernel -- IMAGE [OPTIONS] [-- ARGUMENTS]

  --inspect             only say how IMAGE can be started, and why
  --mem MIB             memory in MiB (64)
  --cpus N              number of vCPUs (1)
  --backend NAME        what runs it: kvm, soft (the CPU in software), or the best this host has,
                        with the reason (auto)
  --module FILE[=TEXT]  a file for the guest, with a command line of its own; may be repeated.
                        PVH and Linux take one, without TEXT, as their initrd
  --help                this text
  ARGUMENTS             the guest's command line, joined by spaces

An image can be, the first that fits:
  bzImage      entered by the 64-bit Linux boot protocol; memtest86+ is one too
  PVH          an ELF with a XEN_ELFNOTE_PHYS32_ENTRY note: 32-bit protected mode, EBX -> start info
  Multiboot 1  a header with magic 0x1badb002: 32-bit protected mode, EBX -> information
  plain ELF64  an x86-64 executable linked to where it is loaded: long mode, entered as
               void entry(const char *cmdline, const struct range *map, uint64_t ranges)

COM1 (port 0x3f8) is standard output; what this program says goes to standard error. The guest ends
itself by writing its exit code to port 0xf4, or by ACPI.

Exit status: the guest's code (255 if it does not fit); 125 if the guest did not get that far, or
with --inspect cannot be started.

Examples (the images are built along with this program, under target/):
  images=$(dirname $(find target -name multiboot.elf | head -1))
  cargo run -q --example unikernel -- $images/multiboot.elf -- 1071 462
  cargo run -q --example unikernel -- $images/multiboot.elf --module Cargo.toml=manifest
  cargo run -q --example unikernel -- $images/pvh.elf --inspect
";

/// The exit status if it is not the guest's.
const FAILED: u8 = 125;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Default)]
struct Options {
    help: bool,
    inspect: bool,
    image: String,
    mem: Option<u64>,
    cpus: Option<u32>,
    backend: Backend,
    modules: Vec<(String, String)>,
    cmdline: String,
}

#[derive(Default)]
enum Backend {
    #[default]
    Auto,
    Named(&'static str),
}

fn main() -> ExitCode {
    let status = Options::parse().and_then(|options| match options {
        Options { help: true, .. } => tell(HELP),
        Options { inspect: true, image, .. } => {
            let found = boot::inspect(&image)?;
            tell(&describe(&image, &found))?;
            Ok(if found.best().is_some() { 0 } else { FAILED })
        }
        options => run(&options),
    });
    ExitCode::from(status.unwrap_or_else(|error| {
        say(error);
        FAILED
    }))
}

fn run(options: &Options) -> Result<u8> {
    let image = &options.image;
    let found = boot::inspect(image)?;
    let best = found.best().ok_or_else(|| describe(image, &found))?;
    say(format!("{image}: started by {}: {}", best.way, best.why));

    let hypervisor: Arc<dyn Hypervisor> = match options.backend {
        Backend::Auto => {
            // A unikernel runs in ring 0, so it counts as a kernel.
            let choice = host::best(Need::Kernel)?;
            say(format!("on {} ({})", choice.name(), choice.reason()));
            choice.into()
        }
        Backend::Named(name) => host::named(name)?.into(),
    };
    let size = options.mem.unwrap_or(64).checked_mul(1 << 20).ok_or("--mem: too much")?;
    let machine = Machine::builder()
        .hypervisor(hypervisor)
        .memory(size)
        .vcpus(options.cpus.unwrap_or(1))
        .device(Serial::stdout())
        .device(Rtc::now())
        .device(I8042::new())
        .device(DebugExit::new());
    let machine = boot(machine, best.way, options)?.build()?;

    let outcome = loop {
        match machine.run() {
            // Stopped by ^Z, for one, and continued.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => break outcome?,
        }
    };
    match outcome {
        Outcome::PowerOff(code) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        outcome => Err(format!("{image} did not finish: {outcome}").into()),
    }
}

/// Chooses the loader.
fn boot(machine: Builder, way: Way, options: &Options) -> Result<Builder> {
    let Options { image, cmdline, modules, .. } = options;
    let linux = || {
        let linux = Linux::kernel(image).cmdline(cmdline);
        match &modules[..] {
            [] => Ok(linux),
            [(initrd, text)] if text.is_empty() => Ok(linux.initrd(initrd)),
            _ => Err(format!("{way} takes one module, without a command line")),
        }
    };
    Ok(match way {
        Way::Linux => machine.boot(linux()?),
        Way::Pvh => machine.boot(linux()?.protocol(Protocol::Pvh)),
        Way::Multiboot => {
            let kernel = Multiboot::kernel(image).cmdline(cmdline);
            machine
                .boot(modules.iter().fold(kernel, |kernel, (file, text)| kernel.module(file, text)))
        }
        Way::Elf64 if modules.is_empty() => machine.boot(Elf64::program(image).cmdline(cmdline)),
        way => return Err(format!("{way}: modules cannot be passed").into()),
    })
}

/// Each way to start the image, and why it is one or is none.
fn describe(image: &str, found: &Found) -> String {
    let mut text = match found.best() {
        Some(best) => format!("{image}: can be started by {}\n", best.way),
        None => format!("{image}: cannot be started\n"),
    };
    for evidence in &found.evidence {
        let (mark, way) = (if evidence.is_there { ' ' } else { '!' }, evidence.way.to_string());
        text += &format!("{mark} {way:24} {}\n", evidence.why);
    }
    text
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self::default();
        let mut arguments = env::args_os().skip(1).map(|argument| {
            argument.into_string().map_err(|argument| format!("{argument:?} is not UTF-8"))
        });
        while let Some(argument) = arguments.next().transpose()? {
            let mut value = || -> Result<String> {
                let value = arguments.next().transpose()?;
                Ok(value.ok_or_else(|| format!("{argument} wants a value; try --help"))?)
            };
            match argument.as_str() {
                "--" => {
                    options.cmdline =
                        arguments.collect::<std::result::Result<Vec<_>, _>>()?.join(" ");
                    break;
                }
                "--help" | "-h" => return Ok(Self { help: true, ..options }),
                "--inspect" => options.inspect = true,
                "--mem" => options.mem = Some(number(&argument, &value()?)?),
                "--cpus" => options.cpus = Some(number(&argument, &value()?)?),
                "--backend" => options.backend = Backend::parse(&value()?)?,
                "--module" => {
                    let value = value()?;
                    let (file, text) = value.split_once('=').unwrap_or((&value, ""));
                    options.modules.push((file.into(), text.into()));
                }
                image if options.image.is_empty() && !image.starts_with('-') => {
                    options.image = argument;
                }
                _ => return Err(format!("unknown argument: {argument}; try --help").into()),
            }
        }
        if options.image.is_empty() {
            return Err("no image given; try --help".into());
        }
        Ok(options)
    }
}

impl Backend {
    fn parse(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Named("kvm")),
            "soft" => Ok(Self::Named("soft")),
            _ => Err(format!("--backend: {name} is none of auto, kvm, soft").into()),
        }
    }
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T> {
    Ok(value.parse().map_err(|_| format!("{option}: {value} is no number that fits"))?)
}

fn tell(text: &str) -> Result<u8> {
    io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

/// Nothing is lost if nobody listens.
fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "unikernel: {what}");
}
