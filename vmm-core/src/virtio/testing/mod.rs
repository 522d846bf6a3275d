//! A driver in the process of the test, for people who write virtio devices: no guest is needed,
//! and no machine.
//!
//! A [`Driver`] sets a device up through its registers, as a guest's driver would, and lends it
//! chains of buffers. It also does what the reactor does in a machine: [`turn`](Driver::turn) wakes
//! the device for as long as there is reason to. Whoever wants to misbehave writes registers,
//! descriptors and indices as they like.
//!
//! ```
//! # use vmm_core::{Result, virtio::{Cause, DeviceId, VirtioDevice, VirtioIo}};
//! # struct Mirror;
//! # impl VirtioDevice for Mirror {
//! #     fn name(&self) -> &str { "mirror" }
//! #     fn id(&self) -> DeviceId { DeviceId(42) }
//! #     fn queues(&self) -> &[u16] { &[64] }
//! #     fn wake(&mut self, _: Cause, io: &mut VirtioIo<'_>) -> Result<()> {
//! #         while let Some(chain) = io.pop(0) {
//! #             let mut data = vec![0; chain.readable().len() as usize];
//! #             chain.readable().read(0, &mut data);
//! #             data.reverse();
//! #             let written = chain.writable().write(0, &data);
//! #             chain.complete(written as u32);
//! #         }
//! #         Ok(())
//! #     }
//! # }
//! # fn main() -> Result<()> {
//! let mut driver = vmm_core::virtio::testing::Driver::new(Mirror)?;
//! driver.start(u64::MAX)?;
//! driver.submit(0, &[b"abc", b"d"], &[2, 6])?;
//! let done = driver.wait(0)?;
//! assert_eq!((done.written, &done.data[..4]), (4, b"dcba".as_slice()));
//! # Ok(())
//! # }
//! ```

mod queue;

use std::{
    collections::BTreeMap,
    fmt,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use self::queue::{Descriptor, Done};
use self::queue::{Queue, Sent};
use super::{Cause, EVENT_IDX, Endpoint, INDIRECT_DESC, Mmio, VERSION_1, VirtioDevice};
use crate::{
    bus::BusDevice,
    error::{Error, HostResult, Result},
    irq::{EventFd, Gsi, IrqController, IrqLine, Msi},
    memory::{GuestAddress, GuestMemory, PAGE_SIZE},
    persist::{StateReader, StateWriter},
};

/// A driver of one device, with the memory that both share.
pub struct Driver {
    device: Plugged,
    memory: GuestMemory,
    queues: Vec<Queue>,
    /// The first byte that was never given out, and what was given back, by size.
    next: u64,
    free: BTreeMap<u64, Vec<u64>>,
    features: u64,
}

struct Plugged {
    endpoint: Arc<Endpoint>,
    registers: Mmio,
    sources: Vec<OwnedFd>,
    interrupts: Arc<Interrupts>,
}

/// How long a device may take for what it is waited for; no test gets near it.
const PATIENCE: Duration = Duration::from_secs(60);
/// As much memory as nobody touches costs nothing.
const MEMORY: u64 = 256 << 20;

impl Driver {
    /// A driver of `device`, which is reset.
    ///
    /// # Errors
    /// As [`Endpoint::new`], [`Endpoint::sources`].
    pub fn new(device: impl VirtioDevice) -> Result<Self> {
        Self::with_memory(device, GuestMemory::anonymous(MEMORY)?)
    }

    /// The same, in this memory; its first page stays free.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_memory(device: impl VirtioDevice, memory: GuestMemory) -> Result<Self> {
        let device = Plugged::new(device, &memory)?;
        let (queues, free) = (Vec::new(), BTreeMap::new());
        Ok(Self { device, memory, queues, next: PAGE_SIZE, free, features: 0 })
    }

    /// The memory that driver and device share.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The device's own end.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.device.endpoint
    }

    /// Reads a register.
    pub fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        let _ = self.device.registers.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn write(&self, offset: u64, value: u32) {
        let _ = self.device.registers.write(offset, &value.to_le_bytes());
    }

    /// An access of any width, as a hostile guest makes them.
    pub fn write_bytes(&self, offset: u64, data: &[u8]) {
        let _ = self.device.registers.write(offset, data);
    }

    /// Reads `N` bytes of configuration space.
    pub fn config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        let _ = self.device.registers.read(0x100 + offset, &mut data);
        data
    }

    /// The device status.
    pub fn status(&self) -> u32 {
        self.read(0x70)
    }

    /// Whether the device has given up on its driver.
    pub fn needs_reset(&self) -> bool {
        self.status() & 64 != 0
    }

    /// How often the device has interrupted.
    pub fn interrupts(&self) -> usize {
        self.device.interrupts.0.load(SeqCst)
    }

    /// What the device offers.
    pub fn offered(&self) -> u64 {
        let bank = |n| {
            self.write(0x14, n);
            u64::from(self.read(0x10))
        };
        bank(0) | bank(1) << 32
    }

    /// Resets the device; requests that it had are forgotten.
    pub fn reset(&mut self) {
        self.write(0x70, 0);
        let queues = std::mem::take(&mut self.queues);
        for sent in queues.into_iter().flat_map(Queue::into_sent) {
            self.release(&sent);
        }
    }

    /// Sets the device up (section 3.1.1) with those of its features that are among `features`, and
    /// all of its queues at their full size; returns what was agreed upon.
    ///
    /// # Errors
    /// `Incompatible` if the device refuses; `BadConfig` if there is not enough memory.
    pub fn start(&mut self, features: u64) -> Result<u64> {
        self.reset();
        self.features = self.offered() & (features | VERSION_1);
        self.write(0x70, 1);
        self.write(0x70, 3);
        for bank in 0..2 {
            self.write(0x24, bank);
            self.write(0x20, (self.features >> (32 * bank)) as u32);
        }
        self.write(0x70, 11);
        if self.status() & 8 == 0 {
            return Err(Error::incompatible(format!("features {:#x}", self.features)));
        }
        for index in 0.. {
            self.write(0x30, index);
            let size = self.read(0x34) as u16;
            if size == 0 {
                break;
            }
            self.add_queue(index, size)?;
        }
        self.write(0x70, 15);
        self.turn()?;
        Ok(self.features)
    }

    fn add_queue(&mut self, index: u32, size: u16) -> Result<()> {
        let at = self.take(Queue::bytes(size))?;
        let event_idx = self.features & EVENT_IDX != 0;
        let queue = Queue::new(&self.memory, at, size, event_idx)?;
        self.write(0x38, size.into());
        for (register, at) in [0x80, 0x90, 0xa0].into_iter().zip(queue.areas()) {
            self.write(register, at as u32);
            self.write(register + 4, (at >> 32) as u32);
        }
        self.write(0x44, 1);
        debug_assert_eq!(self.read(0x44), 1, "queue {index} cannot be used");
        self.queues.push(queue);
        Ok(())
    }

    /// The addresses of a queue's descriptors, of the driver's and of the device's area.
    pub fn areas(&self, queue: usize) -> [u64; 3] {
        self.queues.get(queue).map_or([0; 3], Queue::areas)
    }

    /// Room for `len` bytes of guest memory.
    ///
    /// # Errors
    /// `BadConfig` if there is none left.
    pub fn take(&mut self, len: u64) -> Result<u64> {
        let size = len.next_multiple_of(PAGE_SIZE).max(PAGE_SIZE);
        if let Some(at) = self.free.get_mut(&size).and_then(Vec::pop) {
            return Ok(at);
        }
        let at = self.next;
        if !self.memory.has(GuestAddress(at), size) {
            return Err(Error::bad_config(format!("no room for {len} bytes")));
        }
        self.next += size;
        Ok(at)
    }

    /// Gives back what [`take`](Self::take) gave.
    pub fn give(&mut self, at: u64, len: u64) {
        let size = len.next_multiple_of(PAGE_SIZE).max(PAGE_SIZE);
        self.free.entry(size).or_default().push(at);
    }

    /// Lends the device a chain of buffers, those with `readable` and as long as `writable` says;
    /// rings if the device wants that. Returns its head.
    ///
    /// # Errors
    /// `WrongState` if the queue is full; `BadConfig` without memory.
    pub fn submit(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> Result<u16> {
        let buffers = self.buffers(readable, writable)?;
        let (memory, side) = self.side(queue)?;
        let head = side.submit(memory, buffers, None)?;
        self.kick_if_wanted(queue)?;
        Ok(head)
    }

    /// As [`submit`](Self::submit), by an indirect table.
    ///
    /// # Errors
    /// As for that; `WrongState` if the device does not know such tables.
    pub fn submit_indirect(
        &mut self,
        queue: usize,
        readable: &[&[u8]],
        writable: &[u32],
    ) -> Result<u16> {
        if self.features & INDIRECT_DESC == 0 {
            return Err(Error::wrong_state("indirect descriptors were not negotiated"));
        }
        let buffers = self.buffers(readable, writable)?;
        let table = self.take(16 * buffers.len() as u64)?;
        let (memory, side) = self.side(queue)?;
        let head = side.submit(memory, buffers, Some(table))?;
        self.kick_if_wanted(queue)?;
        Ok(head)
    }

    fn buffers(&mut self, readable: &[&[u8]], writable: &[u32]) -> Result<Vec<(u64, u32, bool)>> {
        let mut buffers = Vec::new();
        for data in readable {
            let at = self.take(data.len() as u64)?;
            self.memory.write(GuestAddress(at), data)?;
            buffers.push((at, data.len() as u32, false));
        }
        for &len in writable {
            buffers.push((self.take(len.into())?, len, true));
        }
        Ok(buffers)
    }

    fn side(&mut self, queue: usize) -> Result<(&GuestMemory, &mut Queue)> {
        let side = self.queues.get_mut(queue);
        let side = side.ok_or_else(|| Error::not_found(format!("queue {queue}")))?;
        Ok((&self.memory, side))
    }

    fn kick_if_wanted(&mut self, queue: usize) -> Result<()> {
        let (memory, side) = self.side(queue)?;
        if side.wants_kick(memory)? {
            self.kick(queue);
        }
        Ok(())
    }

    /// Rings for a queue.
    pub fn kick(&self, queue: usize) {
        self.write(Mmio::QUEUE_NOTIFY, queue as u32);
    }

    /// Writes a descriptor.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue, `GuestMemory` if the index leaves memory.
    pub fn describe(&mut self, queue: usize, index: u16, descriptor: Descriptor) -> Result<()> {
        let (memory, side) = self.side(queue)?;
        side.describe(memory, index, descriptor)
    }

    /// Makes the chain that starts at `head` available, without ringing.
    ///
    /// # Errors
    /// As for [`describe`](Self::describe).
    pub fn offer(&mut self, queue: usize, head: u16) -> Result<()> {
        let (memory, side) = self.side(queue)?;
        side.offer(memory, head)
    }

    /// The next entry of the used ring, as it is: head and length.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue.
    pub fn used(&mut self, queue: usize) -> Result<Option<(u32, u32)>> {
        let (memory, side) = self.side(queue)?;
        side.used(memory)
    }

    /// The next request that the device has completed.
    ///
    /// # Errors
    /// `Internal` if the device completes what it does not have.
    pub fn collect(&mut self, queue: usize) -> Result<Option<Done>> {
        let (memory, side) = self.side(queue)?;
        let Some((head, written)) = side.used(memory)? else { return Ok(None) };
        let sent = side.take_sent(head).ok_or_else(|| {
            Error::internal(format!("queue {queue}: {head} is completed and was not out"))
        })?;
        let data = sent.written_data(&self.memory)?;
        self.release(&sent);
        Ok(Some(Done { head: head as u16, written, data }))
    }

    fn release(&mut self, sent: &Sent) {
        sent.pieces().for_each(|(at, len)| self.give(at, len.into()));
    }

    /// Wakes the device until there is no reason to.
    ///
    /// # Errors
    /// What the device says.
    pub fn turn(&self) -> Result<()> {
        while self.device.turn()? {}
        Ok(())
    }

    /// The next request that the device completes, waking it and waiting for it.
    ///
    /// # Errors
    /// What the device says; `Host` if nothing came for a minute, or the device needs a reset.
    pub fn wait(&mut self, queue: usize) -> Result<Done> {
        let start = Instant::now();
        loop {
            self.turn()?;
            if let Some(done) = self.collect(queue)? {
                return Ok(done);
            }
            if self.needs_reset() || start.elapsed() > PATIENCE {
                let status = self.status();
                let doing = format!("waiting for queue {queue}, status {status:#x}");
                return Err(Error::host(doing, libc::ETIMEDOUT));
            }
            std::thread::yield_now();
        }
    }

    /// How many requests the device has.
    pub fn outstanding(&self, queue: usize) -> usize {
        self.queues.get(queue).map_or(0, Queue::outstanding)
    }

    /// Pauses and saves the device, and goes on with `other` in its place, which gets its state: as
    /// when a snapshot is restored.
    ///
    /// # Errors
    /// What either says.
    pub fn replace(&mut self, other: impl VirtioDevice) -> Result<()> {
        self.device.endpoint.drain(&|| false);
        let mut out = StateWriter::new();
        self.device.registers.save(&mut out)?;
        let other = Plugged::new(other, &self.memory)?;
        let mut from = StateReader::from_bytes(&out.into_bytes()?)?;
        other.registers.restore(&mut from)?;
        from.finish()?;
        self.device = other;
        Ok(())
    }
}

impl Plugged {
    fn new(device: impl VirtioDevice, memory: &GuestMemory) -> Result<Self> {
        let interrupts = Arc::new(Interrupts::default());
        let line = IrqLine::new(Arc::clone(&interrupts) as Arc<dyn IrqController>, Gsi(16));
        let endpoint = Arc::new(Endpoint::new(device, memory, line)?);
        let sources = endpoint.sources()?;
        let registers = Mmio::new(Arc::clone(&endpoint), || false);
        Ok(Self { endpoint, registers, sources, interrupts })
    }

    /// Wakes the device for what is ready; whether anything was.
    fn turn(&self) -> Result<bool> {
        use std::os::fd::AsFd;
        let mut any = false;
        if let Ok(rung) = self.endpoint.bell().read() {
            any = rung > 0;
            self.endpoint.hear(rung);
            self.endpoint.wake(Cause::Queues)?;
        }
        for (source, fd) in self.sources.iter().enumerate() {
            let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
            let ready =
                poll(&mut fds, Some(&Timespec::default())).host(|| "looking at a source")?;
            if ready > 0 && !self.endpoint.is_held(source) {
                any = true;
                self.endpoint.wake(Cause::Source(source))?;
            }
        }
        Ok(any)
    }
}

/// Counts rising edges.
#[derive(Default)]
struct Interrupts(AtomicUsize);

impl IrqController for Interrupts {
    fn set_line(&self, _: Gsi, level: bool) -> Result<()> {
        self.0.fetch_add(level.into(), SeqCst);
        Ok(())
    }

    fn send_msi(&self, _: Msi) -> Result<bool> {
        Ok(true)
    }

    fn line_event(&self, _: Gsi) -> Option<Result<EventFd>> {
        None
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("device", &self.device.endpoint).finish_non_exhaustive()
    }
}
