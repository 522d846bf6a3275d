//! Guest memory: pages of the host's memory, lent to the CPU, and the entries by which it reaches
//! into them.
//!
//! Every access is atomic if it is aligned, as on a processor: loads acquire, stores release, LOCK
//! is sequentially consistent. Nothing here is ever a reference into guest memory.
#![expect(unsafe_code, reason = "the one way from a guest address to the host's memory")]

use std::{
    fmt,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicU8, AtomicU16, AtomicU32, AtomicU64,
        Ordering::{Acquire, Release, SeqCst},
    },
};

mod bulk;
mod flat;
mod unaligned;
mod wide;

pub use flat::Flat;

use self::unaligned::Unaligned;
use crate::{code, word::Datum};

/// The size of a page in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// The part of an address that numbers a byte in its page.
pub(crate) const OFFSET: u64 = PAGE_SIZE - 1;

/// Where guest-physical memory lies in the host's.
///
/// # Safety
/// What [`page`](Self::page) returns names 4096 bytes, aligned to 4096, of host memory that are not
/// Rust's to assume anything of (a mapping, shared or private); they stay readable, and writable if
/// it says so, as long as the `Ram` is lent to [`Cpu::run`](crate::Cpu::run), and from one run to
/// the next unless [`generation`](Self::generation) changes.
pub unsafe trait Ram {
    /// The page of this number (physical address / 4096), or `None` if there is no RAM.
    fn page(&self, number: u64) -> Option<Page>;

    /// The page of this number is about to be written. Called at least once for each page that is,
    /// but not for each store, until the generation changes.
    fn dirty(&self, number: u64);

    /// A number that differs whenever pages have changed their places, or dirty pages were
    /// collected, since it was asked for before. Asked for once a run, and after each call of
    /// [`Io`](crate::Io).
    fn generation(&self) -> u64;
}

/// A page of guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Its first byte.
    pub host: NonNull<u8>,
    /// Whether stores go to it. Those to a page that is not writable go to [`Io`](crate::Io).
    pub writable: bool,
}

/// A page while it is lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lent<'a> {
    host: usize,
    pub(crate) writable: bool,
    lender: std::marker::PhantomData<&'a dyn Ram>,
}

impl<'a> Lent<'a> {
    /// The page that holds a physical address.
    pub(crate) fn from(ram: &'a dyn Ram, physical: u64) -> Option<Self> {
        let Page { host, writable } = ram.page(physical / PAGE_SIZE)?;
        let host = host.as_ptr().expose_provenance();
        debug_assert!(host.is_multiple_of(PAGE_SIZE as usize));
        Some(Self { host, writable, lender: std::marker::PhantomData })
    }

    /// What tells this page from all others, whatever addresses lead to it.
    pub(crate) fn identity(self) -> u64 {
        self.host as u64
    }

    /// The datum at `offset`, which must not cross the page's end.
    pub(crate) fn load<D: Datum>(self, offset: u64) -> D {
        // SAFETY: in the page by `within`; `Ram` promises that the page is readable while lent.
        unsafe { D::load(self.within::<D>(offset)) }
    }

    /// Stores at `offset`; the datum must not cross the page's end, the page must be writable.
    pub(crate) fn store<D: Datum>(self, offset: u64, value: D) {
        assert!(self.writable);
        // SAFETY: in the page by `within`; `Ram` promises that it is writable while lent.
        unsafe { value.store(self.within::<D>(offset)) }
    }

    /// Replaces the aligned word at `offset` if it is `old`; else says what it is.
    pub(crate) fn compare_exchange<D: Datum>(self, offset: u64, old: D, new: D) -> Result<(), D> {
        assert!(self.writable && offset.is_multiple_of(D::BYTES));
        // SAFETY: in the page by `within`, aligned as just asserted; writable while lent.
        unsafe { D::swap_if(self.within::<D>(offset), old, new) }
    }

    /// Copies bytes out, from `offset` on, as far as the page goes; returns how many.
    pub(crate) fn read(self, offset: u64, into: &mut [u8]) -> usize {
        let len = into.len().min((PAGE_SIZE - offset.min(PAGE_SIZE)) as usize);
        match len {
            1 => into[0] = self.load(offset),
            2 => into[..2].copy_from_slice(&self.load::<u16>(offset).to_le_bytes()),
            4 => into[..4].copy_from_slice(&self.load::<u32>(offset).to_le_bytes()),
            8 => into[..8].copy_from_slice(&self.load::<u64>(offset).to_le_bytes()),
            16 => into[..16].copy_from_slice(&self.load::<u128>(offset).to_le_bytes()),
            _ => (offset..).zip(&mut into[..len]).for_each(|(at, byte)| *byte = self.load(at)),
        }
        len
    }

    /// Copies bytes in, from `offset` on; they must not cross the page's end.
    pub(crate) fn write(self, offset: u64, bytes: &[u8]) {
        match *bytes {
            [a] => self.store(offset, a),
            [a, b] => self.store(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.store(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => {
                self.store(offset, u64::from_le_bytes([a, b, c, d, e, f, g, h]));
            }
            _ => match <[u8; 16]>::try_from(bytes) {
                Ok(bytes) => self.store(offset, u128::from_le_bytes(bytes)),
                Err(_) => (offset..).zip(bytes).for_each(|(at, byte)| self.store(at, *byte)),
            },
        }
    }

    fn within<D: Datum>(self, offset: u64) -> *mut u8 {
        assert!(offset <= PAGE_SIZE - D::BYTES);
        ptr::with_exposed_provenance_mut(self.host + offset as usize)
    }
}

/// One line of the TLB: a linear page, and the host's page behind it.
///
/// Only used during the run that filled it, or a later one of the same [`Ram::generation`]: the TLB
/// is emptied otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// The linear address of the page, if it may be loaded from; [`NEVER`](Self::NEVER) otherwise.
    read: u64,
    /// As `read`, for stores that need no further care.
    write: u64,
    /// What to add to a linear address for the host's.
    addend: usize,
    /// The linear address of the page, if code may be fetched; then `host` is known from `addend`.
    fetch: u64,
}

impl Entry {
    /// Has bits that no address has after its mask.
    const NEVER: u64 = !0;

    pub(crate) const EMPTY: Self =
        Self { read: Self::NEVER, write: Self::NEVER, addend: 0, fetch: Self::NEVER };

    /// Adds the ways in which `linear`'s page may be used to those that are known.
    pub(crate) fn learn(&mut self, linear: u64, page: Lent<'_>, write: bool, fetch: bool) {
        let tag = linear & !OFFSET;
        let addend = page.host.wrapping_sub(tag as usize);
        if self.addend != addend || (self.read != tag && self.fetch != tag) {
            *self = Self { addend, ..Self::EMPTY };
        }
        if fetch {
            self.fetch = tag;
        } else {
            self.read = tag;
        }
        if write && page.writable {
            self.write = tag;
        }
    }

    /// Forgets that the page may be stored to, if its code is marked in this word.
    pub(crate) fn forget_writes(&mut self, word: usize) {
        let identity = self.addend.wrapping_add(self.write as usize) as u64;
        if self.write != Self::NEVER && code::word(identity) == word {
            self.write = Self::NEVER;
        }
    }

    /// Whether it is about the page of `linear` at all.
    pub(crate) fn holds(&self, linear: u64) -> bool {
        let tag = linear & !OFFSET;
        self.read == tag || self.write == tag || self.fetch == tag
    }

    /// The identity of the page at `linear`, if code may be fetched from it.
    pub(crate) fn code(&self, linear: u64) -> Option<u64> {
        let tag = linear & !OFFSET;
        (self.fetch == tag).then(|| self.addend.wrapping_add(tag as usize) as u64)
    }

    /// Loads an aligned datum.
    #[inline(always)]
    pub(crate) fn load<D: Datum>(&self, linear: u64) -> Option<D> {
        if !self.loads::<D>(linear) {
            return None;
        }
        // SAFETY: the tag says that the page may be loaded from, and that the datum is aligned and
        // so within it; `Ram` promises that the page is there.
        Some(unsafe { D::load_aligned(self.host(linear)) })
    }

    /// Loads a datum that does not cross the page's end.
    #[inline(always)]
    pub(crate) fn load_unaligned<D: Datum>(&self, linear: u64) -> Option<D> {
        if self.read != linear & !OFFSET || linear & OFFSET > PAGE_SIZE - D::BYTES {
            return None;
        }
        // SAFETY: as in `load`; within the page as just checked.
        Some(unsafe { D::load(self.host(linear)) })
    }

    /// Stores an aligned datum; false if that needs care.
    #[inline(always)]
    pub(crate) fn store<D: Datum>(&self, linear: u64, value: D) -> bool {
        if self.write != linear & (!OFFSET | (D::BYTES - 1)) {
            return false;
        }
        // SAFETY: the tag says that the page may be stored to, and that the datum is aligned and so
        // within it; `Ram` promises that the page is there.
        unsafe { value.store_aligned(self.host(linear)) }
        true
    }

    /// Stores a datum that does not cross the page's end; false if that needs care.
    #[inline(always)]
    pub(crate) fn store_unaligned<D: Datum>(&self, linear: u64, value: D) -> bool {
        if !self.stores_unaligned::<D>(linear) {
            return false;
        }
        // SAFETY: as in `store`; within the page as just checked.
        unsafe { value.store(self.host(linear)) }
        true
    }

    /// Replaces an aligned word atomically if it is `old`, else says what it is; `None` if that
    /// needs care.
    #[inline(always)]
    pub(crate) fn compare_exchange<D: Datum>(
        &self,
        linear: u64,
        old: D,
        new: D,
    ) -> Option<Result<(), D>> {
        if self.write != linear & (!OFFSET | (D::BYTES - 1)) {
            return None;
        }
        // SAFETY: as in `store`.
        Some(unsafe { D::swap_if(self.host(linear), old, new) })
    }

    /// Whether an aligned load would need no care.
    #[inline(always)]
    pub(crate) fn loads<D: Datum>(&self, linear: u64) -> bool {
        self.read == linear & (!OFFSET | (D::BYTES - 1))
    }

    /// Whether an aligned store would need no care.
    #[inline(always)]
    pub(crate) fn stores<D: Datum>(&self, linear: u64) -> bool {
        self.write == linear & (!OFFSET | (D::BYTES - 1))
    }

    /// Whether a store that does not cross the page's end would need no care.
    #[inline(always)]
    pub(crate) fn stores_unaligned<D: Datum>(&self, linear: u64) -> bool {
        self.write == linear & !OFFSET && linear & OFFSET <= PAGE_SIZE - D::BYTES
    }

    #[inline(always)]
    fn host(&self, linear: u64) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.addend.wrapping_add(linear as usize))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{:x} w{:x} x{:x}", self.read, self.write, self.fetch)
    }
}

/// How a datum moves between registers and the host's memory.
pub(crate) trait Raw: Sized {
    /// # Safety
    /// `at` is aligned to the size of the datum (16 bytes: to 8), and as many bytes are readable.
    unsafe fn load_aligned(at: *const u8) -> Self;
    /// # Safety
    /// As many bytes as the datum has are readable at `at`.
    unsafe fn load(at: *const u8) -> Self;
    /// # Safety
    /// As for `load_aligned`, and writable.
    unsafe fn store_aligned(self, at: *mut u8);
    /// # Safety
    /// As for `load`, and writable.
    unsafe fn store(self, at: *mut u8);
    /// Replaces the datum if it is `old`, with sequential consistency; else says what it is.
    ///
    /// # Safety
    /// As for `store_aligned`.
    unsafe fn swap_if(at: *mut u8, old: Self, new: Self) -> Result<(), Self>;
}

macro_rules! raw {
    ($type:ty, $atomic:ty) => {
        impl Raw for $type {
            #[inline(always)]
            unsafe fn load_aligned(at: *const u8) -> Self {
                // SAFETY: aligned and readable, as the caller promises.
                unsafe { <$atomic>::from_ptr(at.cast_mut().cast()).load(Acquire) }
            }

            #[inline(always)]
            unsafe fn load(at: *const u8) -> Self {
                if at.cast::<$type>().is_aligned() {
                    // SAFETY: aligned as just checked, readable as the caller promises.
                    return unsafe { Self::load_aligned(at) };
                }
                // SAFETY: as many bytes are readable.
                unsafe { Unaligned::read(at) }
            }

            #[inline(always)]
            unsafe fn store_aligned(self, at: *mut u8) {
                // SAFETY: aligned and writable, as the caller promises.
                unsafe { <$atomic>::from_ptr(at.cast()).store(self, Release) }
            }

            #[inline(always)]
            unsafe fn store(self, at: *mut u8) {
                if at.cast::<$type>().is_aligned() {
                    // SAFETY: aligned as just checked, writable as the caller promises.
                    return unsafe { self.store_aligned(at) };
                }
                // SAFETY: as many bytes are writable.
                unsafe { Unaligned::write(self, at) }
            }

            #[inline(always)]
            unsafe fn swap_if(at: *mut u8, old: Self, new: Self) -> Result<(), Self> {
                // SAFETY: aligned and writable, as the caller promises.
                let word = unsafe { <$atomic>::from_ptr(at.cast()) };
                let swapped = word.compare_exchange(old, new, SeqCst, SeqCst).map(drop);
                after_lock();
                swapped
            }
        }
    };
}

raw!(u8, AtomicU8);
raw!(u16, AtomicU16);
raw!(u32, AtomicU32);
raw!(u64, AtomicU64);

/// Nothing goes from one side of a locked access to the other. On x86-64 hosts that is so for each
/// instruction that the swap above can become.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn after_lock() {}

/// Elsewhere an atomic access can let others past it that have nothing to do with its own word.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn after_lock() {
    std::sync::atomic::fence(SeqCst);
}

/// Two halves, each atomic for itself, as processors have it for vectors.
impl Raw for u128 {
    #[inline(always)]
    unsafe fn load_aligned(at: *const u8) -> Self {
        // SAFETY: both halves are within what the caller promises.
        let (low, high) = unsafe { (u64::load_aligned(at), u64::load_aligned(at.add(8))) };
        u128::from(high) << 64 | u128::from(low)
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: both halves are within what the caller promises.
        let (low, high) = unsafe { (u64::load(at), u64::load(at.add(8))) };
        u128::from(high) << 64 | u128::from(low)
    }

    #[inline(always)]
    unsafe fn store_aligned(self, at: *mut u8) {
        // SAFETY: both halves are within what the caller promises.
        unsafe {
            (self as u64).store_aligned(at);
            ((self >> 64) as u64).store_aligned(at.add(8));
        }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: both halves are within what the caller promises.
        unsafe {
            (self as u64).store(at);
            ((self >> 64) as u64).store(at.add(8));
        }
    }

    unsafe fn swap_if(at: *mut u8, old: Self, new: Self) -> Result<(), Self> {
        // SAFETY: as the caller promises.
        unsafe { double::swap_if(at, old, new) }
    }
}

#[cfg(target_arch = "x86_64")]
mod double {
    use std::arch::asm;

    /// CMPXCHG16B of the host; every x86-64 processor but the very first has it.
    ///
    /// # Safety
    /// `at` is aligned to 16, readable and writable.
    pub(super) unsafe fn swap_if(at: *mut u8, old: u128, new: u128) -> Result<(), u128> {
        let (mut low, mut high) = (old as u64, (old >> 64) as u64);
        let swapped: u8;
        // SAFETY: aligned and writable as the caller promises. RBX, which the compiler keeps for
        // itself but gives out as "reg", is put back; so no operand may be in it.
        unsafe {
            asm!(
                "xchg rbx, rsi",
                "lock cmpxchg16b [rdi]",
                "sete r8b",
                "mov rbx, rsi",
                inout("rsi") new as u64 => _,
                in("rdi") at,
                out("r8b") swapped,
                inout("rax") low,
                inout("rdx") high,
                in("rcx") (new >> 64) as u64,
                options(nostack),
            );
        }
        if swapped != 0 { Ok(()) } else { Err(u128::from(high) << 64 | u128::from(low)) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod double {
    use std::sync::{Mutex, PoisonError};

    use super::Raw;

    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// Among themselves these are atomic; a host without an instruction for it can do no more.
    ///
    /// # Safety
    /// `at` is aligned to 16, readable and writable.
    pub(super) unsafe fn swap_if(at: *mut u8, old: u128, new: u128) -> Result<(), u128> {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as the caller promises.
        let found = unsafe { u128::load_aligned(at) };
        if found != old {
            return Err(found);
        }
        // SAFETY: as the caller promises.
        unsafe { new.store_aligned(at) };
        Ok(())
    }
}
