//! The example linux, with a guest so small that every kind of KVM runs it; and the unit tests of
//! its parts, which cargo would build instead of the example if they were run there.

#[path = "../arguments/mod.rs"]
mod arguments;
#[path = "../linux/keys.rs"]
mod keys;
#[path = "../linux/options.rs"]
mod options;

use std::{
    env, fs,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Prints `>`, echoes what it receives, and ends by a letter: reset, off or fault.
const GUEST: &[u8] = &[
    0xb0, 0x3e, //              start:  mov $'>', %al
    0x66, 0xba, 0xf8, 0x03, //  send:   mov $0x3f8, %dx
    0xee, //                            out %al, %dx
    0x66, 0xba, 0xfd, 0x03, //  wait:   mov $0x3fd, %dx
    0xec, //                            in %dx, %al
    0xa8, 0x01, //                      test $1, %al
    0x74, 0xf7, //                      jz wait
    0xb2, 0xf8, //                      mov $0xf8, %dl
    0xec, //                            in %dx, %al
    0x3c, b'R', //                      cmp $'R', %al
    0x74, 0x12, //                      je reset
    0x3c, b'F', //                      cmp $'F', %al
    0x74, 0x12, //                      je fault
    0x3c, b'O', //                      cmp $'O', %al
    0x75, 0xe3, //                      jne send
    0x66, 0xba, 0x04, 0x06, //          mov $0x604, %dx
    0x66, 0xb8, 0x00, 0x34, //          mov $0x3400, %ax
    0x66, 0xef, //                      out %ax, %dx
    0xb0, 0xfe, //              reset:  mov $0xfe, %al
    0xe6, 0x64, //                      out %al, $0x64
    0x0f, 0x0b, //              fault:  ud2
];

/// Where the guest goes, and so its entry.
const START: u64 = 1 << 20;

/// More than a start takes where each instruction of the guest is emulated.
const LONG: Duration = Duration::from_secs(30);

/// The guest as an ELF file of one segment, named for the test that wants it.
fn kernel(test: &str) -> Result<PathBuf> {
    const HEADERS: u64 = 64 + 56;
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    let mut put = |bytes: &[u8]| image.extend(bytes);
    // e_type, e_machine, e_version; e_entry, e_phoff, e_shoff.
    put(&[2, 0, 62, 0, 1, 0, 0, 0]);
    [START, 64, 0].iter().for_each(|field| put(&field.to_le_bytes()));
    // e_flags; e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
    put(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // p_type, p_flags; p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
    put(&[1, 0, 0, 0, 5, 0, 0, 0]);
    let size = GUEST.len() as u64;
    [HEADERS, START, START, size, size, 1].iter().for_each(|field| put(&field.to_le_bytes()));
    put(GUEST);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(directory)?;
    let path = directory.join(test);
    fs::write(&path, image)?;
    Ok(path)
}

/// The example, which cargo has built next to this test.
fn linux() -> Result<Command> {
    let mut path = env::current_exe()?;
    // target/PROFILE/deps/this-test
    path.pop();
    path.pop();
    Ok(Command::new(path.join("examples/linux")))
}

/// The example with the guest.
fn with_guest(test: &str) -> Result<Command> {
    let mut command = linux()?;
    command.arg("--kernel").arg(kernel(test)?).args(["--mem", "2"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// A process that does not outlive its test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.spawn()?))
    }

    fn signal(&self, signal: Signal) -> Result {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }

    fn output(&mut self) -> Result<&mut ChildStdout> {
        self.0.stdout.as_mut().ok_or_else(|| "its output is not a pipe".into())
    }

    /// Reads as many bytes as `expected` has, which they must be.
    fn expect(&mut self, expected: &str) -> Result {
        let mut read = vec![0; expected.len()];
        self.output()?.read_exact(&mut read)?;
        assert_eq!(String::from_utf8_lossy(&read), expected);
        Ok(())
    }

    /// Reads on until its output ends with this; gives what was read.
    fn read_until(&mut self, marker: &str) -> Result<String> {
        let mut read = Vec::new();
        while !read.ends_with(marker.as_bytes()) {
            let mut byte = [0];
            if self.output()?.read(&mut byte)? == 0 {
                let text = String::from_utf8_lossy(&read).into_owned();
                return Err(format!("its output ends without '{marker}':\n{text}").into());
            }
            read.extend(byte);
        }
        Ok(String::from_utf8_lossy(&read).into_owned())
    }

    fn end(&mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < LONG {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err("it does not end".into())
    }

    fn errors(&mut self) -> Result<String> {
        let mut text = String::new();
        self.0.stderr.take().ok_or("its errors are not a pipe")?.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, unless the test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the guest with this input in a pipe.
fn run(command: &mut Command, input: &[u8]) -> Result<Output> {
    let mut child = command.spawn()?;
    child.stdin.take().ok_or("its input is not a pipe")?.write_all(input)?;
    Ok(child.wait_with_output()?)
}

#[test]
fn the_command_line_is_explained_and_checked() -> Result {
    let help = linux()?.arg("--help").output()?;
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout)?.contains("Usage: cargo run --example linux"));
    let refusals: [(&[&str], &str); 3] = [
        (&["--frobnicate"], "linux: --frobnicate: no such option; try --help\n"),
        (&[], "linux: --kernel is missing; try --help\n"),
        (&["--kernel", "no/such"], "linux: --kernel: no/such: No such file or directory"),
    ];
    for (arguments, says) in refusals {
        let refused = linux()?.args(arguments).output()?;
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        let text = String::from_utf8(refused.stderr)?;
        assert!(text.starts_with(says), "'{text}' does not start with '{says}'");
        assert!(refused.stdout.is_empty());
    }
    Ok(())
}

#[test]
fn what_a_pipe_has_reaches_the_guest_as_it_is() -> Result {
    let mut command = with_guest("what_a_pipe_has")?;
    let output = run(command.arg("--stats"), b"one\x01x\ntwoO")?;
    let errors = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(String::from_utf8(output.stdout)?, ">one\x01x\ntwo");
    assert!(errors.contains("device serial"), "{errors}");
    Ok(())
}

#[test]
fn the_end_of_input_does_not_end_the_guest() -> Result {
    let mut command = with_guest("the_end_of_input")?;
    let mut linux = Running::start(command.stdin(Stdio::null()))?;
    linux.expect(">")?;
    thread::sleep(Duration::from_millis(100));
    assert!(linux.0.try_wait()?.is_none());
    linux.signal(Signal::INT)?;
    assert_eq!(linux.end()?.signal(), Some(Signal::INT.as_raw()));
    Ok(())
}

#[test]
fn a_guest_that_resets_starts_anew_and_gets_the_input_that_follows() -> Result {
    let mut command = with_guest("a_guest_that_resets")?;
    let mut linux = Running::start(&mut command)?;
    let mut input = linux.0.stdin.take().ok_or("its input is not a pipe")?;
    input.write_all(b"aR")?;
    linux.expect(">a>")?;
    input.write_all(b"bO")?;
    linux.expect("b")?;
    assert_eq!(linux.end()?.code(), Some(0));
    Ok(())
}

#[test]
fn a_guest_that_does_not_power_off_is_an_error() -> Result {
    let mut command = with_guest("a_guest_that_does_not")?;
    command.arg("--no-reboot");
    for (letter, says) in [(b"R", "guest: asked for a reset"), (b"F", "guest: fault: ")] {
        let output = run(&mut command, letter)?;
        let errors = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(says), "{errors}");
    }
    Ok(())
}

/// A terminal of which we are the other side.
struct Pty {
    keyboard: File,
    terminal: File,
}

impl Pty {
    fn open() -> Result<Self> {
        // Without NOCTTY it could become the terminal of this test, and hang up on it.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let keyboard = openpt(flags)?;
        grantpt(&keyboard)?;
        unlockpt(&keyboard)?;
        let name = ptsname(&keyboard, Vec::new())?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(OpenptFlags::NOCTTY.bits() as i32);
        Ok(Self { keyboard: keyboard.into(), terminal: options.open(name.to_str()?)? })
    }

    /// Whether keys are collected to lines, as for a shell.
    fn is_cooked(&self) -> Result<bool> {
        Ok(tcgetattr(&self.terminal)?.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO))
    }
}

/// Starts the guest on a terminal, ends it by `end`, and sees that it left the terminal as it was.
fn on_a_terminal(
    test: &str,
    end: impl FnOnce(&mut Running, &mut Pty) -> Result,
) -> Result<Option<(ExitStatus, String)>> {
    let mut command = with_guest(test)?;
    let mut pty = Pty::open()?;
    assert!(pty.is_cooked()?);
    let mut linux = Running::start(command.stdin(pty.terminal.try_clone()?))?;
    linux.expect(">")?;
    assert!(!pty.is_cooked()?, "it is raw while the guest runs");
    end(&mut linux, &mut pty)?;
    let status = linux.end()?;
    assert!(pty.is_cooked()?, "it is restored");
    Ok(Some((status, linux.errors()?)))
}

#[test]
fn keys_reach_the_guest_until_ctrl_a_x() -> Result {
    let ended = on_a_terminal("keys_reach_the_guest", |linux, pty| {
        pty.keyboard.write_all(b"a\x03\x01a\r\x01h")?;
        linux.expect("a\x03\x01\r")?;
        pty.keyboard.write_all(b"\x01x")?;
        Ok(())
    })?;
    let Some((status, errors)) = ended else { return Ok(()) };
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(errors.contains("Ctrl-A a          send Ctrl-A\r\n"), "{errors}");
    Ok(())
}

#[test]
fn the_terminal_is_restored_at_every_end() -> Result {
    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        let ended = on_a_terminal("a_signal", |linux, _| linux.signal(signal))?;
        let Some((status, errors)) = ended else { return Ok(()) };
        assert_eq!(status.signal(), Some(signal.as_raw()), "{errors}");
    }
    for (letter, code) in [(b"O", 0), (b"F", 1)] {
        let ended = on_a_terminal("its_own_end", |_, pty| Ok(pty.keyboard.write_all(letter)?))?;
        let Some((status, errors)) = ended else { return Ok(()) };
        assert_eq!(status.code(), Some(code), "{errors}");
    }
    Ok(())
}

/// On a whole KVM, where `tests/run` has the guests (CONTRIBUTING.md).
#[test]
fn a_distributions_kernel_gives_a_shell_and_comes_back_from_a_reboot() -> Result {
    const PROMPT: &str = " # ";
    let Some(guests) = env::var_os("VMM_GUESTS").map(PathBuf::from) else {
        println!("skipped: a_distributions_kernel: no guests here; tests/run has them, in the lab");
        return Ok(());
    };
    let mut pty = Pty::open()?;
    let mut command = linux()?;
    command.arg("--kernel").arg(guests.join("vmlinuz"));
    command.arg("--initrd").arg(guests.join("initrd"));
    command.stdin(pty.terminal.try_clone()?).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut linux = Running::start(&mut command)?;
    for _ in 0..2 {
        linux.read_until(PROMPT)?;
        pty.keyboard.write_all(b"uname -a\r")?;
        let said = linux.read_until(PROMPT)?;
        assert!(
            said.contains("\nLinux guest 6.") && said.contains(" x86_64 GNU/Linux\r"),
            "{said}"
        );
        pty.keyboard.write_all(b"reboot -f\r")?;
    }
    linux.read_until(PROMPT)?;
    pty.keyboard.write_all(b"\x01x")?;
    assert_eq!(linux.end()?.code(), Some(0), "{}", linux.errors()?);
    assert_eq!(linux.errors()?.matches("linux: the guest resets\n").count(), 2);
    assert!(pty.is_cooked()?);
    Ok(())
}
