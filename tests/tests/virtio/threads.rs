//! A disk among threads as a machine has them, and a driver that looks at its queues only when an
//! interrupt comes, as Linux's does: neither its notifications nor the device's are ever lost.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst, fence},
    },
    thread,
    time::Duration,
};

use vmm_core::{
    Result,
    bus::BusDevice,
    irq::{EventFd, Gsi, IrqController, IrqLine, Msi},
    memory::{GuestAddress, GuestMemory},
    virtio::{Cause, Endpoint, Mmio, Writable},
};
use vmm_devices::{Block, Image};

const EVENT_IDX: u32 = 1 << 29;
const SIZE: u16 = 256;
/// Requests that a queue holds, three descriptors each.
const SLOTS: u16 = 64;
/// Far more than any request takes; a machine may be very busy.
const LONG: Duration = Duration::from_secs(120);

#[test]
fn two_queues_never_wait_in_vain() {
    work(2, EVENT_IDX);
    work(2, 0);
}

#[test]
fn eight_queues_never_wait_in_vain() {
    work(8, EVENT_IDX);
}

/// Has a thread for each queue ask for much, and wait for it.
fn work(queues: usize, features: u32) {
    let rounds = if std::env::var_os("VMM_LONG").is_some() { 300_000 } else { 300 };
    let mut guest = Guest::new(Block::image(Moody::default()).unwrap().queues(queues).unwrap());
    guest.start(queues as u32, features);
    thread::scope(|scope| {
        let _over = Over(&guest);
        scope.spawn(|| guest.wake_device());
        scope.spawn(|| guest.take_interrupts());
        let guest = &guest;
        let ask = |index| scope.spawn(move || guest.ask(index, rounds));
        let asking: Vec<_> = (0..queues).map(ask).collect();
        asking.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(guest.endpoint.traffic().errors, 0);
}

/// A device, and its driver on the threads of two vCPUs or more.
struct Guest {
    memory: GuestMemory,
    endpoint: Arc<Endpoint>,
    registers: Mmio,
    pin: Arc<Pin>,
    queues: Vec<(Mutex<Queue>, Condvar)>,
    /// How often a queue has ended a round.
    ended: (Mutex<u64>, Condvar),
    is_over: AtomicBool,
}

/// Ends the guest's threads, also when a test fails.
struct Over<'a>(&'a Guest);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, SeqCst);
        self.0.endpoint.kick();
        self.0.pin.rise();
    }
}

impl Guest {
    fn new(block: Block) -> Self {
        let memory = GuestMemory::anonymous(64 << 20).unwrap();
        let pin = Arc::new(Pin::default());
        let line = IrqLine::new(Arc::clone(&pin) as Arc<dyn IrqController>, Gsi(16));
        let endpoint = Arc::new(Endpoint::new(block, &memory, line).unwrap());
        let registers = Mmio::new(Arc::clone(&endpoint), || false);
        let (queues, ended, is_over) = Default::default();
        Self { memory, endpoint, registers, pin, queues, ended, is_over }
    }

    fn set(&self, register: u64, value: u32) {
        let _ = self.registers.write(register, &value.to_le_bytes());
    }

    fn register(&self, register: u64) -> u32 {
        let mut value = [0; 4];
        let _ = self.registers.read(register, &mut value);
        u32::from_le_bytes(value)
    }

    fn start(&mut self, queues: u32, features: u32) {
        [(0x70, 3), (0x20, features), (0x24, 1), (0x20, 1), (0x70, 11)]
            .into_iter()
            .for_each(|(register, value)| self.set(register, value));
        for index in 0..queues {
            let at = u64::from(index + 1) << 20;
            let queue = Queue::new(&self.memory, at, features & EVENT_IDX != 0);
            self.set(0x30, index);
            self.set(0x38, SIZE.into());
            let areas =
                [(0x80, queue.descriptors()), (0x90, queue.driver()), (0xa0, queue.device())];
            areas.into_iter().for_each(|(register, at)| self.set(register, at as u32));
            self.set(0x44, 1);
            assert_eq!(self.register(0x44), 1);
            self.queues.push((Mutex::new(queue), Condvar::new()));
        }
        self.set(0x70, 15);
    }

    /// The reactor.
    fn wake_device(&self) {
        while !self.is_over.load(SeqCst) {
            // Asleep until the bell rings, or nearly.
            match self.endpoint.bell().read() {
                Ok(_) => self.endpoint.wake(Cause::Queues).unwrap(),
                Err(_) => thread::sleep(Duration::from_micros(10)),
            }
        }
    }

    /// The handler of the interrupt (Linux, `vm_interrupt` and `virtblk_done`).
    fn take_interrupts(&self) {
        loop {
            self.pin.wait();
            if self.is_over.load(SeqCst) {
                return;
            }
            let status = self.register(0x60);
            self.set(0x64, status);
            if status & 1 == 0 {
                continue;
            }
            for (queue, done) in &self.queues {
                if queue.lock().unwrap().collect(&self.memory) {
                    done.notify_one();
                }
            }
        }
    }

    /// Asks in rounds, some of which begin only when every queue has ended the last one: then nothing
    /// else is in flight by which the loss of one interrupt would be made good.
    fn ask(&self, index: usize, rounds: u64) {
        let (queue, done) = &self.queues[index];
        let mut numbers = Numbers(index as u64 + 1);
        for round in 1..=rounds {
            let mut queue = queue.lock().unwrap();
            (0..=numbers.next(8)).for_each(|_| queue.submit(&self.memory, numbers.next(9)));
            let rings = queue.wants_kick(&self.memory);
            let mut left = queue.out();
            drop(queue);
            if rings {
                self.set(Mmio::QUEUE_NOTIFY, index as u32);
            }
            // Until some are back, or all.
            left = if round % 2 == 0 { 0 } else { numbers.next(left as u64) as usize };
            let queue = self.queues[index].0.lock().unwrap();
            let waited = done.wait_timeout_while(queue, LONG, |queue| queue.out() > left).unwrap();
            let (queue, timeout) = waited;
            assert!(!timeout.timed_out(), "queue {index}, round {round}: {}", self.told(&queue));
            drop(queue);
            if round % 2 == 0 {
                self.wait_for_others(round / 2);
            }
        }
    }

    fn wait_for_others(&self, round: u64) {
        let (ended, changed) = &self.ended;
        let mut ended = ended.lock().unwrap();
        *ended += 1;
        changed.notify_all();
        let all = round * self.queues.len() as u64;
        drop(changed.wait_timeout_while(ended, LONG, |ended| *ended < all).unwrap());
    }

    /// What both sides say, for who looks for what was lost.
    fn told(&self, queue: &Queue) -> String {
        let u16_at = |at| self.memory.read_obj::<u16>(GuestAddress(at)).unwrap();
        format!(
            "{} out; made available {}, asked to tell of {}; used {}, asked to tell of {}; \
             interrupt status {}, device status {}",
            queue.out(),
            queue.avail,
            u16_at(queue.avail_event()),
            u16_at(queue.device() + 2),
            u16_at(queue.used_event()),
            self.register(0x60),
            self.register(0x70),
        )
    }
}

/// The driver's side of a queue, as Linux has it (drivers/virtio/virtio_ring.c).
struct Queue {
    at: u64,
    event_idx: bool,
    free: Vec<u16>,
    avail: u16,
    told: u16,
    used: u16,
}

impl Queue {
    fn new(memory: &GuestMemory, at: u64, event_idx: bool) -> Self {
        let queue = Self { at, event_idx, free: (0..SLOTS).collect(), avail: 0, told: 0, used: 0 };
        // A header that the device reads, 4 KiB, and a status that it writes.
        for slot in 0..SLOTS {
            let [header, data, status] = [0, 0x1000, 16].map(|offset| queue.buffer(slot) + offset);
            let describe = |n: u16, at: u64, len: u32, flags: u16| {
                let descriptor = queue.descriptors() + 16 * u64::from(3 * slot + n);
                memory.write_obj(GuestAddress(descriptor), at).unwrap();
                memory.write_obj(GuestAddress(descriptor + 8), len).unwrap();
                memory.write_obj(GuestAddress(descriptor + 12), flags).unwrap();
                memory.write_obj(GuestAddress(descriptor + 14), 3 * slot + n + 1).unwrap();
            };
            describe(0, header, 16, 1);
            describe(1, data, 0x1000, 1);
            describe(2, status, 1, 2);
        }
        queue
    }

    fn descriptors(&self) -> u64 {
        self.at
    }

    fn driver(&self) -> u64 {
        self.at + 0x1000
    }

    fn device(&self) -> u64 {
        self.at + 0x2000
    }

    fn used_event(&self) -> u64 {
        self.driver() + 4 + 2 * u64::from(SIZE)
    }

    fn avail_event(&self) -> u64 {
        self.device() + 4 + 8 * u64::from(SIZE)
    }

    fn buffer(&self, slot: u16) -> u64 {
        self.at + 0x4000 + 0x2000 * u64::from(slot)
    }

    fn out(&self) -> usize {
        usize::from(SLOTS) - self.free.len()
    }

    /// A read more often than a write; a flush at times.
    fn submit(&mut self, memory: &GuestMemory, chance: u64) {
        let Some(slot) = self.free.pop() else { return };
        let (kind, flags) = match chance {
            0 => (4_u32, 3_u16),
            1..4 => (1, 1),
            _ => (0, 3),
        };
        memory.write_obj(GuestAddress(self.buffer(slot)), kind).unwrap();
        memory.write_obj(GuestAddress(self.buffer(slot) + 16), 0xff_u8).unwrap();
        let data = self.descriptors() + 16 * u64::from(3 * slot + 1);
        memory.write_obj(GuestAddress(data + 12), flags).unwrap();
        let entry = self.driver() + 4 + 2 * u64::from(self.avail % SIZE);
        memory.write_obj(GuestAddress(entry), 3 * slot).unwrap();
        fence(SeqCst);
        self.avail = self.avail.wrapping_add(1);
        memory.write_obj(GuestAddress(self.driver() + 2), self.avail).unwrap();
    }

    fn wants_kick(&mut self, memory: &GuestMemory) -> bool {
        fence(SeqCst);
        let (new, old) = (self.avail, std::mem::replace(&mut self.told, self.avail));
        if !self.event_idx {
            return memory.read_obj::<u16>(GuestAddress(self.device())).unwrap() & 1 == 0;
        }
        let event: u16 = memory.read_obj(GuestAddress(self.avail_event())).unwrap();
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Takes all that is used, with interrupts off meanwhile; whether there was any.
    fn collect(&mut self, memory: &GuestMemory) -> bool {
        let before = self.used;
        let mut off = true;
        self.ask_for_interrupts(memory, !off);
        loop {
            fence(SeqCst);
            let used: u16 = memory.read_obj(GuestAddress(self.device() + 2)).unwrap();
            if used != self.used {
                off = true;
                self.ask_for_interrupts(memory, false);
                fence(SeqCst);
            } else if off {
                off = false;
                self.ask_for_interrupts(memory, true);
                continue;
            } else {
                return self.used != before;
            }
            while self.used != used {
                let entry = self.device() + 4 + 8 * u64::from(self.used % SIZE);
                let head: u32 = memory.read_obj(GuestAddress(entry)).unwrap();
                let slot = head as u16 / 3;
                assert!(!self.free.contains(&slot), "{slot} is completed and was not out");
                let status: u8 = memory.read_obj(GuestAddress(self.buffer(slot) + 16)).unwrap();
                assert_eq!(status, 0);
                self.free.push(slot);
                self.used = self.used.wrapping_add(1);
            }
        }
    }

    fn ask_for_interrupts(&self, memory: &GuestMemory, wanted: bool) {
        if self.event_idx {
            // One long past is not reached again soon.
            let event = if wanted { self.used } else { self.used.wrapping_sub(SIZE) };
            memory.write_obj(GuestAddress(self.used_event()), event).unwrap();
        } else {
            memory.write_obj(GuestAddress(self.driver()), u16::from(!wanted)).unwrap();
        }
    }
}

/// An edge-triggered pin of an interrupt controller (Linux, `ioapic_set_irq` of KVM): an edge while
/// it is high is none. It takes its time at times, as a thread of the host does that loses its
/// processor between two system calls.
#[derive(Default)]
struct Pin {
    level: Mutex<bool>,
    pending: Mutex<bool>,
    risen: Condvar,
    edges: AtomicU64,
}

impl Pin {
    fn rise(&self) {
        *self.pending.lock().unwrap() = true;
        self.risen.notify_one();
    }

    fn wait(&self) {
        let pending = self.pending.lock().unwrap();
        let mut pending = self.risen.wait_while(pending, |pending| !*pending).unwrap();
        *pending = false;
    }
}

impl IrqController for Pin {
    fn set_line(&self, _: Gsi, level: bool) -> Result<()> {
        let was_high = std::mem::replace(&mut *self.level.lock().unwrap(), level);
        if level && !was_high {
            self.rise();
            match self.edges.fetch_add(1, SeqCst) % 16 {
                0 => thread::sleep(Duration::from_micros(50)),
                1..8 => thread::yield_now(),
                _ => {}
            }
        }
        Ok(())
    }

    fn send_msi(&self, _: Msi) -> Result<bool> {
        Ok(true)
    }

    fn line_event(&self, _: Gsi) -> Option<Result<EventFd>> {
        None
    }
}

/// A disk without bytes that does every other read at once, and the others on its thread.
#[derive(Default)]
struct Moody(AtomicU64);

impl Image for Moody {
    fn len(&self) -> u64 {
        1 << 30
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        thread::yield_now();
        Ok(())
    }

    fn read_into(&self, _: u64, _: &Writable<'_>) -> io::Result<()> {
        Ok(())
    }

    fn try_read_into(&self, _: u64, _: &Writable<'_>) -> io::Result<()> {
        match self.0.fetch_add(1, SeqCst) % 16 {
            0..5 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }
}

/// Numbers that look like chance and are always the same (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}
