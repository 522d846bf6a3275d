//! The C interface. Its manual is `include/vmm.h`, which is made of these sources; the rules that
//! hold for all of it stand there.
//!
//! One C function is one call of the Rust interface and the translation of what goes in and out:
//! pointers are looked at in `pass`, panics end in `guard`, errors become `error` objects.
//! Types have the names they have in C.

#![allow(non_camel_case_types, reason = "types have the names they have in C")]
#![allow(clippy::missing_safety_doc, reason = "the header's rules hold for every function")]
#![allow(unreachable_pub, reason = "C reaches what is exported by its name")]

mod backend;
mod guard;
mod pass;
#[cfg(feature = "testing")]
mod testing;
#[cfg(not(feature = "testing"))]
#[path = "testing/absent.rs"]
mod testing;
mod user;

// As the header has them.

mod version;

mod error;

mod probe;

mod config;

mod boot;

mod device;

mod disk;

mod console;

mod virtio;

mod outcome;

mod machine;

mod handle;

mod memory;

mod registers;

mod saved;

mod exits;

mod sandbox_config;

mod obstacle;

mod value;

mod sandbox;

mod snapshot;

mod pool;

mod vm_cache;

mod log;
