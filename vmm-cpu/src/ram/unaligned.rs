//! Data that are not aligned.
#![expect(unsafe_code, reason = "moves data between registers and pages that are lent")]

/// How such a datum moves between registers and the host's memory.
pub(super) trait Unaligned: Sized {
    /// # Safety
    /// As many bytes as the datum has are readable at `at`.
    unsafe fn read(at: *const u8) -> Self;
    /// # Safety
    /// As many bytes as the datum has are writable at `at`.
    unsafe fn write(self, at: *mut u8);
}

/// Bytes are always aligned.
impl Unaligned for u8 {
    #[inline(always)]
    unsafe fn read(at: *const u8) -> Self {
        // SAFETY: as the caller promises.
        unsafe { <Self as super::Raw>::load_aligned(at) }
    }

    #[inline(always)]
    unsafe fn write(self, at: *mut u8) {
        // SAFETY: as the caller promises.
        unsafe { super::Raw::store_aligned(self, at) }
    }
}

/// One instruction of an x86-64 host, as the guest's was.
#[cfg(target_arch = "x86_64")]
mod host {
    use std::arch::asm;

    use super::Unaligned;

    macro_rules! unaligned {
        ($type:ty, $load:literal, $store:literal) => {
            impl Unaligned for $type {
                #[inline(always)]
                unsafe fn read(at: *const u8) -> Self {
                    let value: Self;
                    // SAFETY: it reads what the caller promises, and nothing else.
                    unsafe {
                        asm!(
                            $load,
                            at = in(reg) at,
                            value = out(reg) value,
                            options(nostack, preserves_flags, readonly),
                        );
                    }
                    value
                }

                #[inline(always)]
                unsafe fn write(self, at: *mut u8) {
                    // SAFETY: it writes what the caller promises, and nothing else.
                    unsafe {
                        asm!(
                            $store,
                            at = in(reg) at,
                            value = in(reg) self,
                            options(nostack, preserves_flags),
                        );
                    }
                }
            }
        };
    }

    unaligned!(u16, "mov {value:x}, word ptr [{at}]", "mov word ptr [{at}], {value:x}");
    unaligned!(u32, "mov {value:e}, dword ptr [{at}]", "mov dword ptr [{at}], {value:e}");
    unaligned!(u64, "mov {value:r}, qword ptr [{at}]", "mov qword ptr [{at}], {value:r}");
}

/// Byte by byte.
#[cfg(not(target_arch = "x86_64"))]
mod host {
    use std::sync::atomic::{
        AtomicU8,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    };

    use super::Unaligned;

    macro_rules! unaligned {
        ($($type:ty),*) => {$(
            impl Unaligned for $type {
                unsafe fn read(at: *const u8) -> Self {
                    let mut bytes = [0; size_of::<Self>()];
                    for (i, byte) in bytes.iter_mut().enumerate() {
                        // SAFETY: within what the caller promises; a byte is always aligned.
                        *byte = unsafe { AtomicU8::from_ptr(at.cast_mut().add(i)).load(Relaxed) };
                    }
                    fence(Acquire);
                    Self::from_le_bytes(bytes)
                }

                unsafe fn write(self, at: *mut u8) {
                    fence(Release);
                    for (i, byte) in self.to_le_bytes().into_iter().enumerate() {
                        // SAFETY: within what the caller promises; a byte is always aligned.
                        unsafe { AtomicU8::from_ptr(at.add(i)).store(byte, Relaxed) };
                    }
                }
            }
        )*};
    }

    unaligned!(u16, u32, u64);
}
