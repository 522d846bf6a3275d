//! What tells a sandbox from all others.
#![expect(unsafe_code, reason = "the host writes what is read here")]

use core::cell::UnsafeCell;

/// The `vmm_identity` of `vmm_guest.h`, which objects in C have too, as a weak symbol.
// SAFETY: of this name the host knows that it is sixteen bytes, and that it may write them.
#[unsafe(export_name = "vmm_identity")]
static IDENTITY: Bytes = Bytes(UnsafeCell::new([0; 16]));

#[repr(transparent)]
struct Bytes(UnsafeCell<[u8; 16]>);

// SAFETY: the program reads it only, and while the host writes the program stands still.
unsafe impl Sync for Bytes {}

/// What tells this sandbox from all others: zeros at first, random in every fork of a snapshot and
/// after every reset. The host has the same (`Sandbox::identity`).
///
/// It changes between two calls of the host. A program that keeps random numbers, as the seed of a
/// generator, draws new ones when it has changed.
pub fn identity() -> [u8; 16] {
    // SAFETY: the place is always good, and nothing else of the program writes there; volatile
    // because the host does.
    unsafe { IDENTITY.0.get().read_volatile() }
}
