//! A 16550 serial port: the guest's console.
//!
//! Output goes to a writer, byte by byte, on the vCPU's thread. Input comes from any thread by a
//! [`SerialInput`], or from a descriptor that the machine's reactor watches; it waits in a queue,
//! and moves on as the guest reads. Registers: National
//! Semiconductor PC16550D data sheet, section 8; modem lines always show a peer that is ready, and
//! there is no baud rate.

mod uart;

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
};

use vmm_core::{
    Error, Result,
    bus::BusDevice,
    exit::{CONTINUE, Flow},
    machine::{Device, Interest, Legacy, Next, Reactor, Slot, Wake, Watch},
    persist::{StateReader, StateWriter},
};

use self::uart::Uart;

/// A serial port, for the next of COM1 to COM4 that is free.
///
/// A vCPU that sends waits for the writer, so one that blocks for long delays
/// [`Handle::stop`](vmm_core::machine::Handle::stop) too. A writer that fails is dropped, once with
/// a message to the log, and the guest goes on without; a byte that would block it is lost.
pub struct Serial {
    port: Port,
    source: Option<Connect>,
}

/// Has an input's descriptor watched; with what type of reader, only this knows.
type Connect = Box<dyn FnOnce(&Reactor, Weak<Shared>) -> Result<Watch> + Send>;

impl Serial {
    /// A port whose output goes to `writer`, flushed after each byte.
    ///
    /// The writer may call [`SerialInput::send`], so an echo is possible; if it writes to a full
    /// `SerialInput`, it waits for itself.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        let uart = Mutex::new(State { uart: Uart::new(), is_gone: false, source: Source::None });
        let output = Mutex::new(Some(Box::new(writer) as Box<dyn Write + Send>));
        let port = Port(Arc::new(Shared { output, uart, room: Condvar::new() }));
        Self { port, source: None }
    }

    /// A port on this process's standard input and output, as [`with_input`](Self::with_input)
    /// reads it. A terminal is left in the mode it is in; raw, it gives the guest each key.
    pub fn stdio() -> Self {
        let mut serial = Self::stdout();
        serial.source = Some(Box::new(|reactor, port| {
            let reader = File::from(copy(io::stdin())?);
            reactor.watch(copy(&reader)?, Interest::Readable, Input { reader, port })
        }));
        serial
    }

    /// A port whose output appears on this process's standard output.
    pub fn stdout() -> Self {
        Self::new(io::stdout())
    }

    /// A port whose output is kept, and what it can be read with.
    pub fn capture() -> (Self, SerialOutput) {
        let output = SerialOutput::default();
        (Self::new(output.clone()), output)
    }

    /// Lets the guest find `input` received. There may be any amount of it.
    #[must_use]
    pub fn with_input_bytes(self, input: impl AsRef<[u8]>) -> Self {
        self.port.0.state().uart.receive_all(input.as_ref());
        self
    }

    /// Sends the guest what `reader` has, while the machine runs: a terminal, pipe, socket or file,
    /// or something around one that changes what is read. No more is read than the guest has room
    /// for; at the end of it, the guest goes on without.
    ///
    /// It is read on the machine's reactor once its descriptor is ready, so nobody else should read
    /// from the same, and nothing may be held back in a buffer of its own.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (reader, writer) = std::io::pipe()?;
    /// let serial = vmm_devices::Serial::stdout().with_input(reader);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_input(mut self, reader: impl Read + AsFd + Send + 'static) -> Self {
        self.source = Some(Box::new(move |reactor, port| {
            reactor.watch(copy(&reader)?, Interest::Readable, Input { reader, port })
        }));
        self
    }

    /// What sends the guest input from now on, from any thread; there may be several.
    pub fn input(&self) -> SerialInput {
        SerialInput(Arc::downgrade(&self.port.0))
    }
}

impl Device for Serial {
    fn name(&self) -> &str {
        "serial"
    }

    /// # Errors
    /// `BadConfig` if the machine has four already; `Host` if its input cannot be watched.
    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        let Self { port, source } = *self;
        if let Some(connect) = source {
            let watch = connect(&slot.reactor()?, Arc::downgrade(&port.0))?;
            port.0.state().source = Source::Read(watch);
        }
        slot.legacy(Legacy::Serial, |line| {
            port.0.state().uart.connect(line);
            Arc::new(port)
        })
    }
}

fn copy(fd: impl AsFd) -> Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned().map_err(|error| {
        Error::host("copying the descriptor of its input", error.raw_os_error().unwrap_or_default())
    })
}

/// The reactor's end of an input.
struct Input<R> {
    reader: R,
    port: Weak<Shared>,
}

impl<R: Read + Send> Wake for Input<R> {
    fn wake(&mut self) -> Result<Next> {
        let Some(port) = self.port.upgrade() else { return Ok(Next::Never) };
        if port.is_input_held() {
            return Ok(Next::Wait);
        }
        let mut buffer = [0; 4096];
        match self.reader.read(&mut buffer) {
            Ok(0) => return Ok(Next::Never),
            // What does not fit is little more, and the next read waits for room.
            Ok(len) => port.state().uart.receive_all(buffer.get(..len).unwrap_or(&buffer)),
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                log::error!("serial port: there is no input from now on: {error}");
                return Ok(Next::Never);
            }
        }
        Ok(Next::Again)
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

/// Sends a guest input by a serial port. Cheap to clone; any thread may use it; it does not keep
/// the device.
///
/// Up to 64 KiB wait for the guest. As [`io::Write`] it waits for room, so on a thread of its own
/// `io::copy(&mut io::stdin(), &mut input)` connects a terminal.
#[derive(Clone)]
pub struct SerialInput(Weak<Shared>);

impl SerialInput {
    /// Sends as much of `bytes` as there is room for and returns how much, 0 if the device is gone.
    /// Never waits for the guest.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let Some(shared) = self.0.upgrade() else { return 0 };
        let mut state = shared.state();
        if state.is_gone { 0 } else { state.uart.receive(bytes) }
    }
}

impl Write for SerialInput {
    /// Waits until there is room for at least one byte.
    ///
    /// # Errors
    /// `BrokenPipe` as soon as the device is gone, that is, its machine was dropped.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let shared = self.0.upgrade().ok_or(ErrorKind::BrokenPipe)?;
        let mut state = shared.state();
        loop {
            if state.is_gone {
                return Err(ErrorKind::BrokenPipe.into());
            }
            let taken = state.uart.receive(bytes);
            if taken > 0 || bytes.is_empty() {
                return Ok(taken);
            }
            state = shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does nothing: what was written is on its way.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a guest sent by a captured serial port: the last 1 MiB of it.
///
/// Cheap to clone; any thread may read it, while the guest runs and after the machine is gone.
#[derive(Clone, Debug, Default)]
pub struct SerialOutput(Arc<Mutex<VecDeque<u8>>>);

impl SerialOutput {
    /// The most that is kept: a guest must not be able to grow its host.
    const LIMIT: usize = 1 << 20;

    /// What was sent so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.held().iter().copied().collect()
    }

    /// What was sent so far, as text; what is not UTF-8 becomes U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Takes what was sent since the last time.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.held()).into()
    }

    fn held(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for SerialOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut held = self.held();
        held.extend(bytes);
        let excess = held.len().saturating_sub(Self::LIMIT);
        held.drain(..excess);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the device and its handles share.
///
/// Lock order: `output`, then `uart`. The writer is called with only the former held: it may
/// send input, and while it blocks, other vCPUs and senders get at the registers.
struct Shared {
    output: Mutex<Option<Box<dyn Write + Send>>>,
    uart: Mutex<State>,
    /// Notified when the queue has room again, and when the device is gone.
    room: Condvar,
}

struct State {
    uart: Uart,
    is_gone: bool,
    source: Source,
}

/// Where input comes from, beside handles.
enum Source {
    None,
    /// Read as it comes.
    Read(Watch),
    /// Not read until there is room.
    Held(Watch),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, offset: u8) -> u8 {
        self.change(|uart| uart.read(offset))
    }

    fn write(&self, offset: u8, value: u8) {
        if offset > 0 {
            self.change(|uart| uart.write(offset, value));
            return;
        }
        // Locked before the registers, so that bytes of several vCPUs go out in the order of their
        // writes.
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(byte) = self.change(|uart| uart.write(offset, value)) {
            transmit(&mut output, byte);
        }
    }

    /// Accesses the registers, and tells writers that wait if that made room.
    fn change<T>(&self, access: impl FnOnce(&mut Uart) -> T) -> T {
        let mut state = self.state();
        let was_full = !state.uart.has_room();
        let result = access(&mut state.uart);
        if was_full && state.uart.has_room() {
            self.room.notify_all();
            if let Source::Held(watch) = std::mem::replace(&mut state.source, Source::None) {
                watch.resume();
                state.source = Source::Read(watch);
            }
        }
        result
    }

    /// Whether there is no room for input; if so, the watch of it is resumed when there is.
    fn is_input_held(&self) -> bool {
        let mut state = self.state();
        if state.uart.has_room() {
            return false;
        }
        if let Source::Read(watch) = std::mem::replace(&mut state.source, Source::None) {
            state.source = Source::Held(watch);
        }
        true
    }
}

fn transmit(output: &mut Option<Box<dyn Write + Send>>, byte: u8) {
    let Some(writer) = output else { return };
    match writer.write_all(&[byte]).and_then(|()| writer.flush()) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => {
            log::error!("serial port: output is dropped from now on: {error}");
            *output = None;
        }
        _ => {}
    }
}

/// The device's own share: when it goes, so does the device.
struct Port(Arc<Shared>);

impl BusDevice for Port {
    fn read(&self, offset: u64, data: &mut [u8]) -> Flow {
        for (offset, byte) in (offset as u8..).zip(data) {
            *byte = self.0.read(offset);
        }
        CONTINUE
    }

    fn write(&self, offset: u64, data: &[u8]) -> Flow {
        for (offset, &byte) in (offset as u8..).zip(data) {
            self.0.write(offset, byte);
        }
        CONTINUE
    }

    fn reset(&self) {
        self.0.change(Uart::reset);
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        self.0.state().uart.save(out)
    }

    /// Input that waited for the saved one goes before what waits for this one.
    fn restore(&self, from: &mut StateReader) -> Result<()> {
        self.0.change(|uart| uart.restore(from))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.0.state().is_gone = true;
        self.0.room.notify_all();
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial").finish_non_exhaustive()
    }
}

impl fmt::Debug for SerialInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gone = self.0.strong_count() == 0;
        f.write_str(if gone { "SerialInput(device is gone)" } else { "SerialInput" })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::BorrowedFd,
        sync::{
            atomic::{AtomicUsize, Ordering::SeqCst},
            mpsc,
        },
        thread,
        time::{Duration, Instant},
    };

    use proptest::prelude::*;
    use vmm_core::{
        ErrorKind as VmmErrorKind, Machine,
        boot::Flat,
        bus::Bus,
        hv::script::{Access, Script},
        irq::Gsi,
        machine::Outcome,
    };

    use super::{uart::QUEUE, *};
    use crate::{
        DebugExit,
        testing::{self, play},
    };

    const COM1: u64 = 0x3f8;
    /// Offsets and bits as in the data sheet.
    const IER: u64 = COM1 + 1;
    const IIR: u64 = COM1 + 2;
    const MCR: u64 = COM1 + 4;
    const LSR: u64 = COM1 + 5;

    fn bus(serial: Serial) -> Bus {
        let mut bus: Bus = Bus::new();
        bus.insert(COM1, 8, Arc::new(serial.port)).unwrap();
        bus
    }

    fn read(bus: &Bus, at: u64) -> u8 {
        let mut data = [0];
        assert!(bus.read(at, &mut data).is_continue());
        data[0]
    }

    fn write(bus: &Bus, at: u64, data: &[u8]) {
        assert!(bus.write(at, data).is_continue());
    }

    /// Reads until the port has nothing left.
    fn drain(bus: &Bus) -> Vec<u8> {
        let ready = || (read(bus, LSR) & 1 != 0).then(|| read(bus, COM1));
        std::iter::from_fn(ready).collect()
    }

    #[test]
    fn output_reaches_the_writer_at_once() {
        let (serial, output) = Serial::capture();
        let bus = bus(serial);
        write(&bus, COM1, b"h");
        assert_eq!(output.text(), "h");
        write(&bus, COM1, b"i");
        assert_eq!(output.take(), b"hi");
        write(&bus, COM1, b"!");
        assert_eq!(output.bytes(), b"!");
    }

    #[test]
    fn captured_output_is_bounded() {
        let mut output = SerialOutput::default();
        for n in 0..1025_u32 {
            output.write_all(&[n as u8; 1024]).unwrap();
        }
        let held = output.bytes();
        assert_eq!((held.len(), held[0], held[held.len() - 1]), (1 << 20, 1, 0));
    }

    #[test]
    fn a_writer_that_fails_is_dropped_and_the_guest_goes_on() {
        struct Fails(mpsc::Sender<u8>, ErrorKind);
        impl Write for Fails {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.send(bytes[0]).unwrap();
                Err(self.1.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for (kind, calls) in [(ErrorKind::BrokenPipe, 1), (ErrorKind::WouldBlock, 3)] {
            let (sender, receiver) = mpsc::channel();
            let bus = bus(Serial::new(Fails(sender, kind)));
            for byte in b"abc" {
                write(&bus, COM1, &[*byte]);
            }
            assert_eq!(receiver.try_iter().count(), calls, "{kind}");
        }
    }

    #[test]
    fn input_of_any_length_arrives_whole_and_in_order() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n * 7 / 3) as u8).collect();
        assert_eq!(drain(&bus(Serial::capture().0.with_input_bytes(&bytes))), bytes);
    }

    #[test]
    fn send_takes_what_there_is_room_for() {
        let serial = Serial::capture().0;
        let input = serial.input();
        // The receiver itself holds 64 more than the queue.
        assert_eq!(input.send(&vec![7; QUEUE]), QUEUE);
        assert_eq!(input.send(&[8; 100]), 64);
        assert_eq!(input.send(&[9]), 0);
        let bus = bus(serial);
        (0..64).for_each(|_| assert_eq!(read(&bus, COM1), 7));
        assert_eq!(input.send(&[9; 65]), 64);
        assert_eq!(drain(&bus).len(), QUEUE + 64);
        drop(bus);
        assert_eq!(input.send(&[1]), 0);
    }

    #[test]
    fn a_writer_waits_for_room_and_learns_that_the_device_is_gone() {
        let serial = Serial::capture().0;
        let mut input = serial.input();
        let bus = bus(serial);
        let sent: Vec<u8> = (0..3 * QUEUE as u32).map(|n| (n >> 8) as u8).collect();
        let (bytes, total) = (sent.clone(), sent.len());
        let writer = thread::spawn(move || {
            input.write_all(&bytes).unwrap();
            // Fills the queue, waits, and is woken by the end of the device.
            input.write_all(&vec![0; 3 * QUEUE])
        });
        let mut got = Vec::new();
        while got.len() < total {
            if read(&bus, LSR) & 1 != 0 {
                got.push(read(&bus, COM1));
            }
        }
        assert!(got == sent);
        drop(bus);
        assert_eq!(writer.join().unwrap().unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_reset_forgets_the_registers_and_loses_no_input() {
        let sent: Vec<u8> = (0..1_000_u32).map(|n| n as u8).collect();
        let serial = Serial::capture().0.with_input_bytes(&sent);
        let port = Arc::new(serial.port);
        let mut bus: Bus = Bus::new();
        bus.insert(COM1, 8, port.clone()).unwrap();
        write(&bus, IER, &[0x01]);
        write(&bus, MCR, &[0x0b]);
        (0..10).for_each(|n| assert_eq!(read(&bus, COM1), n));
        port.reset();
        assert_eq!((read(&bus, IER), read(&bus, MCR)), (0, 0x08));
        assert_eq!(drain(&bus), sent[10..]);

        // What the guest sent to itself is not input.
        write(&bus, MCR, &[0x10]);
        write(&bus, COM1, b"x");
        port.reset();
        assert_eq!(drain(&bus), []);
    }

    /// Holds the guest until the test lets it go on.
    struct Gate(Mutex<mpsc::Receiver<()>>);

    impl BusDevice for Gate {
        fn read(&self, _: u64, _: &mut [u8]) -> Flow {
            CONTINUE
        }

        fn write(&self, _: u64, _: &[u8]) -> Flow {
            self.0.lock().unwrap().recv().unwrap();
            CONTINUE
        }
    }

    impl Device for Gate {
        fn name(&self) -> &str {
            "gate"
        }

        fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
            slot.ports(0x80, 1, Arc::new(*self))
        }
    }

    /// A pipe that counts what the device has got of it for certain: what was read before it came
    /// for more.
    struct Counted {
        pipe: io::PipeReader,
        read: usize,
        got: Arc<AtomicUsize>,
    }

    impl Read for Counted {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.got.store(self.read, SeqCst);
            let count = self.pipe.read(buffer)?;
            self.read += count;
            Ok(count)
        }
    }

    impl AsFd for Counted {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.pipe.as_fd()
        }
    }

    #[test]
    fn a_pipe_is_read_as_fast_as_the_guest_reads_and_no_faster() {
        const LEN: usize = 3 * QUEUE;
        const STEP: usize = QUEUE / 2;
        let data: Vec<u8> = (0..LEN).map(|n| (n % 255) as u8 + 1).collect();
        let (pipe, writer) = io::pipe().unwrap();
        let got = Arc::new(AtomicUsize::new(0));
        let reader = Counted { pipe, read: 0, got: Arc::clone(&got) };
        let mut script = Vec::new();
        for _ in 0..LEN / STEP {
            script.push(Access::port_out(0x80, &[0]));
            script.extend(vec![Access::port_in(COM1 as u16, 1); STEP]);
        }
        script.push(Access::port_out(0xf4, &[0]));
        let script = Script::new(script);
        let (release, released) = mpsc::channel();
        let machine = Machine::builder()
            .hypervisor(script.clone())
            .memory(1 << 20)
            .boot(Flat::real_mode([0xf4]))
            .device(Serial::capture().0.with_input(reader))
            .device(Gate(Mutex::new(released)))
            .device(DebugExit::new())
            .build()
            .unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = writer;
                writer.write_all(&data).unwrap();
            });
            let runner = scope.spawn(|| machine.run().unwrap());
            for step in 1..=LEN / STEP {
                let end = Instant::now() + Duration::from_secs(60);
                while got.load(SeqCst) < step * STEP {
                    assert!(Instant::now() < end, "{} bytes before step {step}", got.load(SeqCst));
                    thread::sleep(Duration::from_millis(1));
                }
                if step == 1 {
                    // Time enough for what must not happen.
                    thread::sleep(Duration::from_millis(100));
                    assert!(got.load(SeqCst) <= QUEUE + 4096);
                }
                release.send(()).unwrap();
            }
            assert_eq!(runner.join().unwrap(), Outcome::PowerOff(0));
        });
        let replies = script.record().replies;
        let got: Vec<u8> = replies.into_iter().map(|reply| reply[0]).collect();
        assert!(got == data);
    }

    #[test]
    fn a_writer_may_echo() {
        struct Echo(Arc<Mutex<Option<SerialInput>>>);
        impl Write for Echo {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                Ok(self.0.lock().unwrap().as_ref().map_or(0, |input| input.send(bytes)))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let input = Arc::new(Mutex::new(None));
        let serial = Serial::new(Echo(Arc::clone(&input)));
        *input.lock().unwrap() = Some(serial.input());
        let bus = bus(serial);
        write(&bus, COM1, b"x");
        assert_eq!(drain(&bus), b"x");
    }

    #[test]
    fn received_data_is_the_cause_until_all_is_read() {
        let bus = bus(Serial::capture().0.with_input_bytes([5; 70]));
        assert_eq!(read(&bus, IIR), 0xc1);
        write(&bus, IER, &[0b11]);
        for _ in 0..70 {
            assert_eq!((read(&bus, IIR), read(&bus, IIR)), (0xc4, 0xc4));
            assert_eq!(read(&bus, COM1), 5);
        }
        // Then "all sent", which enabling it caused, and which reading it takes away.
        assert_eq!((read(&bus, IIR), read(&bus, IIR)), (0xc2, 0xc1));
    }

    #[test]
    fn input_waits_while_the_port_is_looped_back() {
        let serial = Serial::capture().0;
        let input = serial.input();
        let bus = bus(serial);
        write(&bus, MCR, &[0x10]);
        assert_eq!(input.send(b"later"), 5);
        write(&bus, COM1, b"l");
        assert_eq!(drain(&bus), b"l");
        write(&bus, MCR, &[0]);
        assert_eq!(drain(&bus), b"later");
    }

    #[test]
    fn a_wide_access_is_one_byte_to_each_register() {
        let (serial, output) = Serial::capture();
        let bus = bus(serial);
        write(&bus, COM1, &[b'a', 0x01]);
        assert_eq!((output.text().as_str(), read(&bus, IER)), ("a", 0x01));
        let mut data = [0; 4];
        assert!(bus.read(LSR, &mut data).is_continue());
        // LSR, MSR, scratch, and beyond the window.
        assert_eq!(data, [0x60, 0xb0, 0, 0xff]);
    }

    #[test]
    fn interrupts_reach_the_line_of_com1() {
        let guest = [
            Access::port_out(IER as u16, &[0x01]),
            Access::port_in(IIR as u16, 1),
            Access::port_in(COM1 as u16, 1),
            Access::port_in(IIR as u16, 1),
            Access::port_out(0xf4, &[0]),
        ];
        let script = Script::new(guest);
        let builder = Machine::builder().hypervisor(script.clone()).memory(1 << 20);
        let serial = Serial::capture().0.with_input_bytes("x");
        let builder = builder.device(serial).device(DebugExit::new());
        let machine = builder.boot(Flat::real_mode([0xf4])).build().unwrap();
        assert_eq!(machine.run().unwrap(), Outcome::PowerOff(0));
        let record = script.record();
        assert_eq!(record.replies, [[0xc4], [b'x'], [0xc1]]);
        assert_eq!(record.lines, [(Gsi(4), true), (Gsi(4), false)]);
    }

    #[test]
    fn input_from_another_thread_interrupts() {
        let script = Script::new([Access::port_out(IER as u16, &[0x01]), Access::Spin]);
        let serial = Serial::capture().0;
        let input = serial.input();
        let machine = testing::machine(serial, &script);
        let handle = machine.handle();
        thread::scope(|scope| {
            let run = scope.spawn(|| machine.run().unwrap());
            while script.record().lines.is_empty() {
                assert_eq!(input.send(b"x"), 1);
                thread::sleep(std::time::Duration::from_millis(1));
            }
            handle.stop().unwrap();
            assert_eq!(run.join().unwrap(), Outcome::Stopped);
        });
    }

    #[test]
    fn there_are_four_ports() {
        let serials = (0..5).map(|_| Serial::capture()).collect::<Vec<_>>();
        let outputs: Vec<_> = serials.iter().map(|(_, output)| output.clone()).collect();
        let mut serials = serials.into_iter().map(|(serial, _)| serial);
        let last = serials.next_back().unwrap();
        let script = [0x3f8, 0x2f8, 0x3e8, 0x2e8].map(|port| Access::port_out(port, b"a"));
        let build = |serials: Vec<Serial>| {
            let builder = Machine::builder().hypervisor(Script::new(script.clone()));
            let builder = builder.memory(1 << 20).boot(Flat::real_mode([0xf4]));
            serials.into_iter().fold(builder, |builder, serial| builder.device(serial)).build()
        };
        let four: Vec<_> = serials.collect();
        assert!(matches!(build(four).unwrap().run().unwrap(), Outcome::Fault(_)));
        assert!(outputs[..4].iter().all(|output| output.bytes() == b"a"));
        let five = (0..4).map(|_| Serial::capture().0).chain([last]).collect();
        assert_eq!(build(five).unwrap_err().kind(), VmmErrorKind::BadConfig);
    }

    #[test]
    fn a_machine_keeps_running_when_its_console_is_closed() {
        let script = [Access::port_out(0x3f8, b"a"), Access::port_out(0x3f8, b"b"), Access::Halt];
        let (outcome, _) = play(Serial::new(&mut [0_u8; 0][..]), script);
        assert!(matches!(outcome, Outcome::Fault(_)), "the end of the script: {outcome}");
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in testing::accesses(COM1, 8), input in ".{0,200}") {
            testing::perform(&bus(Serial::capture().0.with_input_bytes(input)), &accesses);
        }

        /// However the guest reads and input comes, what went in comes out.
        #[test]
        fn no_input_is_lost(steps in prop::collection::vec((0_usize..150, 0_usize..150), 0..20)) {
            let serial = Serial::capture().0;
            let input = serial.input();
            let bus = bus(serial);
            let (mut sent, mut got) = (Vec::new(), Vec::new());
            for (n, (send, take)) in steps.into_iter().enumerate() {
                let bytes = vec![n as u8; send];
                prop_assert_eq!(input.send(&bytes), send);
                sent.extend(bytes);
                for _ in 0..take.min(sent.len() - got.len()) {
                    prop_assert!(read(&bus, LSR) & 1 != 0);
                    got.push(read(&bus, COM1));
                }
            }
            got.extend(drain(&bus));
            prop_assert_eq!(got, sent);
        }
    }
}
