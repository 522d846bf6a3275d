//! How often a machine left its guest, why, and for which device, on request how long that took;
//! and what passed between virtio devices and their drivers, most of it without an exit.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use crate::virtio::{Endpoint, Traffic};

/// What a machine records of its exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounting {
    /// How many.
    Counts,
    /// How many, and for how long the host worked on them. Reads the clock twice an exit.
    Times,
}

/// Why a vCPU left the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// A load outside RAM.
    MmioRead,
    /// A store outside RAM.
    MmioWrite,
    /// An IN instruction, or one element of a string input.
    PortIn,
    /// An OUT instruction, or one element of a string output.
    PortOut,
    /// `run` of a vCPU returned, for whatever reason.
    Return,
}

impl Reason {
    /// All of them, in the order of their values.
    pub const ALL: [Self; 5] =
        [Self::MmioRead, Self::MmioWrite, Self::PortIn, Self::PortOut, Self::Return];
}

/// How many exits, and how long they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The number of exits.
    pub exits: u64,
    /// Nanoseconds of host time; 0 unless [`Accounting::Times`].
    pub nanoseconds: u64,
}

/// The exits of a machine since it was built, and what its virtio devices did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitReport {
    /// By reason; those that did not occur are left out.
    pub reasons: Vec<(Reason, Count)>,
    /// By device, in the order they were plugged; those that were not accessed are left out.
    pub devices: Vec<(String, Count)>,
    /// What virtio devices did for their drivers, by device, in the order they were plugged.
    pub virtio: Vec<(String, Traffic)>,
}

/// The counters of one machine.
#[derive(Debug)]
pub(super) struct Account {
    accounting: Accounting,
    reasons: [Counter; Reason::ALL.len()],
    /// Locked while devices are plugged and for a report, never on an exit.
    devices: Mutex<Vec<(Arc<str>, Arc<Counter>)>>,
    virtio: Mutex<Vec<(Arc<str>, Arc<Endpoint>)>>,
}

impl Account {
    pub(super) fn new(accounting: Accounting) -> Self {
        let reasons = Reason::ALL.map(|_| Counter::new(accounting));
        Self { accounting, reasons, devices: Mutex::default(), virtio: Mutex::default() }
    }

    /// The counter of one reason.
    pub(super) fn reason(&self, reason: Reason) -> &Counter {
        &self.reasons[reason as usize]
    }

    /// The counter of one device; its windows share it.
    pub(super) fn device(&self, name: &Arc<str>) -> Arc<Counter> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = devices.iter().find(|(known, _)| Arc::ptr_eq(known, name)) {
            return Arc::clone(counter);
        }
        let counter = Arc::new(Counter::new(self.accounting));
        devices.push((Arc::clone(name), Arc::clone(&counter)));
        counter
    }

    /// Puts the traffic of one device into reports.
    pub(super) fn add_virtio(&self, name: &Arc<str>, endpoint: &Arc<Endpoint>) {
        let mut virtio = self.virtio.lock().unwrap_or_else(PoisonError::into_inner);
        virtio.push((Arc::clone(name), Arc::clone(endpoint)));
    }

    pub(super) fn report(&self) -> ExitReport {
        let virtio = self.virtio.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let virtio = virtio.iter().map(|(name, end)| (name.to_string(), end.traffic())).collect();
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let reasons = Reason::ALL.map(|reason| (reason, self.reason(reason).count()));
        let devices = devices.iter().map(|(name, counter)| (name.to_string(), counter.count()));
        ExitReport {
            reasons: reasons.into_iter().filter(|(_, count)| count.exits > 0).collect(),
            devices: devices.filter(|(_, count)| count.exits > 0).collect(),
            virtio,
        }
    }
}

/// A counter that vCPU threads share.
#[derive(Debug)]
pub(super) struct Counter {
    accounting: Accounting,
    exits: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Counter {
    fn new(accounting: Accounting) -> Self {
        Self { accounting, exits: AtomicU64::new(0), nanoseconds: AtomicU64::new(0) }
    }

    /// Counts one exit without a time.
    pub(super) fn add(&self) {
        self.exits.fetch_add(1, Relaxed);
    }

    /// Counts one exit, and the time `work` takes if times are kept.
    pub(super) fn around<T>(&self, work: impl FnOnce() -> T) -> T {
        self.add();
        match self.accounting {
            Accounting::Counts => work(),
            Accounting::Times => {
                let start = Instant::now();
                let result = work();
                let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.nanoseconds.fetch_add(took, Relaxed);
                result
            }
        }
    }

    fn count(&self) -> Count {
        Count { exits: self.exits.load(Relaxed), nanoseconds: self.nanoseconds.load(Relaxed) }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MmioRead => "mmio read",
            Self::MmioWrite => "mmio write",
            Self::PortIn => "port in",
            Self::PortOut => "port out",
            Self::Return => "return",
        })
    }
}

impl fmt::Display for ExitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = self.reasons.iter().map(|(reason, count)| (reason.to_string(), count));
        let devices = self.devices.iter().map(|(name, count)| (format!("device {name}"), count));
        for (what, count) in reasons.chain(devices) {
            writeln!(f, "{what:24} {:12} exits {:12} ns", count.exits, count.nanoseconds)?;
        }
        for (name, t) in &self.virtio {
            let what = format!("virtio {name}");
            write!(f, "{what:24} {:12} requests {:12} bytes read ", t.requests, t.read_bytes)?;
            write!(f, "{:12} bytes written {:6} errors ", t.written_bytes, t.errors)?;
            writeln!(f, "{:9} notifications {:9} interrupts", t.notifications, t.interrupts)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Machine,
        boot::Flat,
        bus::BusDevice,
        exit::{CONTINUE, Flow},
        hv::script::{Access, Script},
        machine::{Device, Slot},
    };

    /// Takes two writes and nothing else.
    struct Sink;

    impl BusDevice for Sink {
        fn read(&self, _: u64, _: &mut [u8]) -> Flow {
            CONTINUE
        }

        fn write(&self, _: u64, _: &[u8]) -> Flow {
            std::thread::sleep(std::time::Duration::from_millis(1));
            CONTINUE
        }
    }

    impl Device for Sink {
        fn name(&self) -> &str {
            "sink"
        }

        fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> crate::Result<()> {
            slot.ports(0x80, 1, Arc::new(*self))
        }
    }

    fn report(accounting: Option<Accounting>) -> Option<ExitReport> {
        let mut script = vec![Access::port_out(0x80, &[1]); 3];
        script.extend([Access::port_in(0x99, 1), Access::load(0xd000_0000, 4), Access::Halt]);
        let mut builder = Machine::builder()
            .hypervisor(Script::new(script))
            .memory(1 << 20)
            .interrupts(None)
            .boot(Flat::real_mode([0xf4]))
            .device(Sink);
        if let Some(accounting) = accounting {
            builder = builder.account(accounting);
        }
        let machine = builder.build().unwrap();
        machine.run().unwrap();
        machine.exits()
    }

    #[test]
    fn a_machine_tells_its_exits_by_reason_and_device() {
        let counts = report(Some(Accounting::Counts)).unwrap();
        let count = |exits| Count { exits, nanoseconds: 0 };
        assert_eq!(counts.devices, [("sink".to_owned(), count(3))]);
        let reasons = [
            (Reason::MmioRead, count(1)),
            (Reason::PortIn, count(1)),
            (Reason::PortOut, count(3)),
            (Reason::Return, count(1)),
        ];
        assert_eq!(counts.reasons, reasons);
        let times = report(Some(Accounting::Times)).unwrap();
        assert!(times.devices[0].1.nanoseconds >= 3_000_000, "{times:?}");
        assert_eq!(report(None), None);
    }

    #[test]
    fn windows_of_one_device_share_a_counter() {
        let account = Account::new(Accounting::Times);
        let (a, b): (Arc<str>, Arc<str>) = ("uart".into(), "uart".into());
        account.device(&a).around(|| ());
        account.device(&a).around(|| ());
        account.device(&b).around(|| ());
        account.reason(Reason::PortOut).add();
        let report = account.report();
        let counts: Vec<_> =
            report.devices.iter().map(|(name, c)| (name.as_str(), c.exits)).collect();
        assert_eq!(counts, [("uart", 2), ("uart", 1)]);
        assert_eq!(report.reasons.len(), 1);
        assert!(report.to_string().contains("port out"));
    }
}
