//! An address space of device windows.
//!
//! A [`Bus`] answers an access by the one device whose window it falls into. Where there is none,
//! reads give all ones and writes are dropped, as on a real bus. An access that crosses the border
//! of a window is cut there and each piece goes to its owner. A bus is built once and then only
//! read: a look-up takes no lock and allocates nothing.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    error::{Error, Result},
    exit::{CONTINUE, Flow},
    persist::{StateReader, StateWriter},
};

/// A device as a bus sees it. Called on vCPU threads, several at once.
///
/// `offset` counts from the start of the device's window and `offset + data.len()` never passes its
/// end. `data` is 1 to 8 bytes in little-endian order. Neither method may block, and a panic ends
/// [`run`](crate::Machine::run) and poisons the device.
pub trait BusDevice: Send + Sync {
    /// Fills `data`; it comes in filled with all ones, what a read of nothing gives.
    fn read(&self, offset: u64, data: &mut [u8]) -> Flow;

    /// Takes `data`.
    fn write(&self, offset: u64, data: &[u8]) -> Flow;

    /// Back to power-on, as the device was when it was plugged; not called during accesses. A
    /// device without state needs none.
    fn reset(&self) {}

    /// Saves what a device like this one needs to go on where this one stands; not called during
    /// accesses. A device without state says so by writing nothing.
    ///
    /// # Errors
    /// `Unsupported` from a device that cannot be saved, as this says for those that do not say
    /// anything else; what the writer says.
    fn save(&self, _out: &mut StateWriter) -> Result<()> {
        Err(Error::unsupported("it cannot be saved"))
    }

    /// Becomes what was saved, which is not trusted; not called during accesses, and after a
    /// [`reset`](Self::reset).
    ///
    /// # Errors
    /// `Incompatible` or `Snapshot` with what does not fit.
    fn restore(&self, _from: &mut StateReader) -> Result<()> {
        Err(Error::unsupported("it cannot be restored"))
    }
}

/// A device that needs `&mut self`: behind one mutex, it is a [`BusDevice`].
#[derive(Debug, Default)]
pub struct Locked<D>(Mutex<D>);

/// What [`Locked`] makes a [`BusDevice`] of.
pub trait LockedDevice: Send {
    /// As [`BusDevice::read`].
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Flow;

    /// As [`BusDevice::write`].
    fn write(&mut self, offset: u64, data: &[u8]) -> Flow;

    /// As [`BusDevice::reset`].
    fn reset(&mut self) {}

    /// As [`BusDevice::save`].
    ///
    /// # Errors
    /// As for that.
    fn save(&self, _out: &mut StateWriter) -> Result<()> {
        Err(Error::unsupported("it cannot be saved"))
    }

    /// As [`BusDevice::restore`].
    ///
    /// # Errors
    /// As for that.
    fn restore(&mut self, _from: &mut StateReader) -> Result<()> {
        Err(Error::unsupported("it cannot be restored"))
    }
}

impl<D> Locked<D> {
    /// Puts `device` behind a mutex.
    pub fn new(device: D) -> Self {
        Self(Mutex::new(device))
    }

    /// Locks the device. A panic of an earlier holder does not keep it locked; whether the device
    /// is still sound is the caller's to judge.
    pub fn lock(&self) -> std::sync::MutexGuard<'_, D> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: LockedDevice> BusDevice for Locked<D> {
    fn read(&self, offset: u64, data: &mut [u8]) -> Flow {
        self.lock().read(offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Flow {
        self.lock().write(offset, data)
    }

    fn reset(&self) {
        self.lock().reset();
    }

    fn save(&self, out: &mut StateWriter) -> Result<()> {
        self.lock().save(out)
    }

    fn restore(&self, from: &mut StateReader) -> Result<()> {
        self.lock().restore(from)
    }
}

/// One device's window on a bus.
struct Window<D: ?Sized> {
    first: u64,
    last: u64,
    /// The offset of `first` within the device, for devices with several windows.
    offset: u64,
    device: Arc<D>,
}

/// An address space of device windows; of devices of one type, if that is known.
pub struct Bus<D: ?Sized = dyn BusDevice> {
    /// In ascending order, disjoint.
    windows: Vec<Window<D>>,
}

impl<D: ?Sized> Default for Bus<D> {
    fn default() -> Self {
        Self { windows: Vec::new() }
    }
}

impl<D: BusDevice + ?Sized> Bus<D> {
    /// A bus with nothing on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` on the bus from address `start` for `len` bytes; its offset 0 is at `start`.
    ///
    /// # Errors
    /// `BadConfig` if `len` is 0, the window passes the end of the address space, or it overlaps
    /// another.
    pub fn insert(&mut self, start: u64, len: u64, device: Arc<D>) -> Result<()> {
        self.insert_at_offset(start, len, 0, device)
    }

    /// Like [`insert`](Self::insert), for a further window of a device: address `start` is its
    /// `offset`.
    ///
    /// # Errors
    /// As for `insert`.
    pub fn insert_at_offset(
        &mut self,
        start: u64,
        len: u64,
        offset: u64,
        device: Arc<D>,
    ) -> Result<()> {
        let bad = |why| {
            Err(Error::bad_config(format!("device window at {start:#x}, {len:#x} bytes: {why}")))
        };
        let last = match len.checked_sub(1).map(|rest| start.checked_add(rest)) {
            None => return bad("empty".to_owned()),
            Some(None) => return bad("passes the end of the address space".to_owned()),
            Some(Some(last)) => last,
        };
        if offset.checked_add(len).is_none() {
            return bad(format!("offset {offset:#x} is too large"));
        }
        let at = self.windows.partition_point(|window| window.last < start);
        if let Some(other) = self.windows.get(at).filter(|other| other.first <= last) {
            return bad(format!("overlaps the one at {:#x}..={:#x}", other.first, other.last));
        }
        self.windows.insert(at, Window { first: start, last, offset, device });
        Ok(())
    }

    /// Whether no window has any of the `len` addresses from `start`.
    pub fn is_free(&self, start: u64, len: u64) -> bool {
        matches!(self.find(start, len as usize), Found::Nothing)
    }

    /// The lowest multiple of `align`, a power of two, from which on `len` addresses within `range`
    /// are free.
    pub fn find_free(&self, range: std::ops::Range<u64>, len: u64, align: u64) -> Option<u64> {
        let aligned = |at: u64| at.checked_next_multiple_of(align);
        let behind = self.windows.iter().filter_map(|window| aligned(window.last.checked_add(1)?));
        let mut candidates: Vec<u64> = aligned(range.start).into_iter().chain(behind).collect();
        candidates.sort_unstable();
        candidates.into_iter().find(|&at| {
            let end = at.checked_add(len);
            at >= range.start && end.is_some_and(|end| end <= range.end) && self.is_free(at, len)
        })
    }

    /// Answers a read: fills `data` from the devices at `address` and above, with ones where there
    /// is none.
    #[inline]
    pub fn read(&self, address: u64, data: &mut [u8]) -> Flow {
        data.fill(0xff);
        match self.find(address, data.len()) {
            Found::Whole(window) => window.device.read(window.offset_of(address), data),
            Found::Nothing => CONTINUE,
            Found::Pieces => self.pieces(address, data.len(), |window, at, range| {
                window.device.read(window.offset_of(at), &mut data[range])
            }),
        }
    }

    /// Answers a write: hands `data` to the devices at `address` and above, drops what has no
    /// taker.
    #[inline]
    pub fn write(&self, address: u64, data: &[u8]) -> Flow {
        match self.find(address, data.len()) {
            Found::Whole(window) => window.device.write(window.offset_of(address), data),
            Found::Nothing => CONTINUE,
            Found::Pieces => self.pieces(address, data.len(), |window, at, range| {
                window.device.write(window.offset_of(at), &data[range])
            }),
        }
    }

    #[inline]
    fn find(&self, address: u64, len: usize) -> Found<'_, D> {
        let end = last_address(address, len);
        let at = self.windows.partition_point(|window| window.last < address);
        match self.windows.get(at) {
            Some(window) if window.first <= address && end <= window.last => Found::Whole(window),
            Some(window) if window.first <= end => Found::Pieces,
            _ => Found::Nothing,
        }
    }

    /// Calls `access` for each piece of an access that has a taker; the first `Break` wins, but
    /// every piece is done.
    #[cold]
    fn pieces(
        &self,
        address: u64,
        len: usize,
        mut access: impl FnMut(&Window<D>, u64, std::ops::Range<usize>) -> Flow,
    ) -> Flow {
        let end = last_address(address, len);
        let first = self.windows.partition_point(|window| window.last < address);
        let mut flow = CONTINUE;
        for window in self.windows[first..].iter().take_while(|window| window.first <= end) {
            let from = window.first.max(address);
            let to = window.last.min(end);
            let range = (from - address) as usize..(to - address) as usize + 1;
            let answer = access(window, from, range);
            if flow.is_continue() {
                flow = answer;
            }
        }
        flow
    }
}

/// The last address of an access; one that passes the end of the address space is cut there.
fn last_address(address: u64, len: usize) -> u64 {
    address.saturating_add((len as u64).saturating_sub(1))
}

impl<D: ?Sized> Window<D> {
    fn offset_of(&self, address: u64) -> u64 {
        address - self.first + self.offset
    }
}

/// Who answers an access.
enum Found<'a, D: ?Sized> {
    /// One device, all of it.
    Whole(&'a Window<D>),
    /// Nobody.
    Nothing,
    /// Several, or one and nobody.
    Pieces,
}

impl<D: ?Sized> fmt::Debug for Bus<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows =
            self.windows.iter().map(|window| format!("{:#x}..={:#x}", window.first, window.last));
        f.debug_list().entries(windows).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use proptest::prelude::*;

    use super::*;
    use crate::{ErrorKind, exit::VcpuExit};

    /// Reads give `base + offset`; writes are logged.
    struct Echo {
        base: u8,
        log: Mutex<Vec<(u64, Vec<u8>)>>,
    }

    fn echo(base: u8) -> Arc<Echo> {
        Arc::new(Echo { base, log: Mutex::new(vec![]) })
    }

    impl BusDevice for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) -> Flow {
            for (i, byte) in data.iter_mut().enumerate() {
                *byte = self.base + (offset as usize + i) as u8;
            }
            CONTINUE
        }

        fn write(&self, offset: u64, data: &[u8]) -> Flow {
            self.log.lock().unwrap().push((offset, data.to_vec()));
            if data == [0xee] { ControlFlow::Break(VcpuExit::PowerOff(0)) } else { CONTINUE }
        }
    }

    #[test]
    fn an_access_reaches_the_device_it_falls_into() {
        let (a, b) = (echo(0x10), echo(0x80));
        let mut bus = Bus::<Echo>::new();
        bus.insert(0x100, 8, a.clone()).unwrap();
        bus.insert_at_offset(0x200, 4, 0x20, b).unwrap();
        let mut data = [0; 2];
        assert!(bus.read(0x106, &mut data).is_continue());
        assert_eq!(data, [0x16, 0x17]);
        let _ = bus.read(0x201, &mut data);
        assert_eq!(data, [0xa1, 0xa2]);
        assert!(bus.write(0x107, &[0xee]).is_break());
        assert_eq!(*a.log.lock().unwrap(), [(7, vec![0xee])]);
    }

    #[test]
    fn nothing_there_reads_as_ones_and_writes_are_dropped() {
        let mut data = [0; 8];
        assert!(Bus::<Echo>::new().read(u64::MAX - 3, &mut data).is_continue());
        assert_eq!(data, [0xff; 8]);
        assert!(Bus::<Echo>::new().write(0, &[1, 2]).is_continue());
    }

    #[test]
    fn an_access_across_a_border_is_cut_there() {
        let (a, b) = (echo(0x10), echo(0x80));
        let mut bus = Bus::<Echo>::new();
        bus.insert(0x100, 2, a.clone()).unwrap();
        bus.insert(0x103, 2, b.clone()).unwrap();
        let mut data = [0; 8];
        let _ = bus.read(0xff, &mut data);
        assert_eq!(data, [0xff, 0x10, 0x11, 0xff, 0x80, 0x81, 0xff, 0xff]);
        let _ = bus.write(0x101, &[1, 2, 3, 4]);
        assert_eq!(*a.log.lock().unwrap(), [(1, vec![1])]);
        assert_eq!(*b.log.lock().unwrap(), [(0, vec![3, 4])]);
    }

    #[test]
    fn bad_windows_are_refused() {
        let mut bus = Bus::<Echo>::new();
        bus.insert(0x100, 0x10, echo(0)).unwrap();
        for (start, len) in
            [(0x10f, 1), (0xff, 2), (0x100, 0x10), (0, 0x1000), (5, 0), (u64::MAX, 2)]
        {
            let error = bus.insert(start, len, echo(0)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadConfig, "{error}");
        }
        bus.insert(0x110, 1, echo(0)).unwrap();
        bus.insert(u64::MAX, 1, echo(0)).unwrap();
    }

    #[test]
    fn room_is_found_between_and_behind_windows() {
        let mut bus = Bus::<Echo>::new();
        for (start, len) in [(0x1000, 0x1000), (0x2800, 0x10), (0x5000, 0x1000)] {
            bus.insert(start, len, echo(0)).unwrap();
        }
        assert_eq!(bus.find_free(0x1000..0x9000, 0x1000, 0x1000), Some(0x3000));
        assert_eq!(bus.find_free(0x1000..0x9000, 0x100, 0x100), Some(0x2000));
        assert_eq!(bus.find_free(0x1000..0x9000, 0x3000, 0x1000), Some(0x6000));
        assert_eq!(bus.find_free(0x1000..0x9000, 0x4000, 0x1000), None);
        assert_eq!(bus.find_free(0..0x1000, 0x1000, 0x1000), Some(0));
        assert!(bus.is_free(0x2810, 8) && !bus.is_free(0x27f9, 8));
    }

    proptest! {
        /// Whatever the windows, a read of many bytes gives the same as many reads of one.
        #[test]
        fn a_wide_read_equals_narrow_ones(
            windows in prop::collection::vec((0u64..64, 1u64..9), 0..8),
            address in 0u64..72,
            len in 1usize..9,
        ) {
            let mut bus = Bus::<Echo>::new();
            for (n, (start, len)) in windows.into_iter().enumerate() {
                let _ = bus.insert(start, len, echo(n as u8 * 16));
            }
            let mut wide = vec![0; len];
            let _ = bus.read(address, &mut wide);
            for (i, expected) in wide.into_iter().enumerate() {
                let mut byte = [0];
                let _ = bus.read(address + i as u64, &mut byte);
                prop_assert_eq!(byte[0], expected);
            }
        }
    }
}
