//! Devices for [`vmm_core`] machines: policy over its mechanism.
//!
//! Each device is a passive state machine that is given to a machine's builder and sits where a PC
//! has it, or where the guest finds it by ACPI. None has an address or an interrupt number of its
//! own, and a thread only what may wait for a disk; none blocks but in a writer the embedder gave it, and nothing a guest does to one is an error of the host: bad
//! accesses read as ones and are dropped. What an embedder wants to hold while the guest runs, such
//! as [`SerialInput`], is a handle taken before the device is plugged.
//!
//! ```
//! use vmm_core::{Machine, boot::Flat, hv::script::{Access, Script}, machine::Outcome};
//! use vmm_devices::{DebugExit, Serial};
//!
//! # fn main() -> vmm_core::Result<()> {
//! // Stands for a guest: prints, then powers off with code 7.
//! let guest = Script::new([Access::port_out(0x3f8, b"!"), Access::port_out(0xf4, &[7])]);
//! let (serial, output) = Serial::capture();
//! let machine = Machine::builder()
//!     .hypervisor(guest)
//!     .memory(1 << 20)
//!     .boot(Flat::real_mode([0xf4]))
//!     .device(serial)
//!     .device(DebugExit::new())
//!     .build()?;
//! assert_eq!(machine.run()?, Outcome::PowerOff(7));
//! assert_eq!(output.text(), "!");
//! # Ok(())
//! # }
//! ```

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod block;
mod console;
mod debug_exit;
mod i8042;
mod rate;
mod rng;
mod rtc;
mod serial;
#[cfg(test)]
mod testing;

pub use block::{
    Block, BlockHandle, BlockStatistics, Disk, Image, MemoryImage, Operation, Overlay, RawFile,
    Request, Threaded,
};
pub use console::{Channel, Console, ConsoleHandle, ConsoleInput, Peer, Stream};
pub use debug_exit::DebugExit;
pub use i8042::I8042;
pub use rate::RateLimit;
pub use rng::Rng;
pub use rtc::Rtc;
pub use serial::{Serial, SerialInput, SerialOutput};

const _: () = {
    const fn plugged_from_any_thread<T: Send>() {}
    const fn shared_between_threads<T: Send + Sync>() {}
    plugged_from_any_thread::<Rtc>();
    plugged_from_any_thread::<Serial>();
    plugged_from_any_thread::<Console>();
    shared_between_threads::<ConsoleHandle>();
    shared_between_threads::<ConsoleInput>();
    shared_between_threads::<DebugExit>();
    shared_between_threads::<I8042>();
    shared_between_threads::<SerialInput>();
    shared_between_threads::<SerialOutput>();
};
