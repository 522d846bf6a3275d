//! Snapshots in files: what a program is, without what was lent to it.
//!
//! A file has the program's memory, registers, files in memory and what it has open; format and
//! pages are [`vmm_core::snapshot`]'s. It has no policy: limits, functions, streams and directories
//! are given by who opens it, as to a program that starts. Nothing of the back end is in it either:
//! page tables and the stub are made anew, and the program stands in ring 3, so that it goes on with
//! any that has the registers and instructions it may use.

mod obstacle;
mod open;

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use vmm_core::{
    Result,
    arch::CpuModel,
    host::{self, KvmKind},
    hv::Hypervisor,
    persist::{Kind, StateWriter},
    snapshot::{self, Origin},
};

pub use self::obstacle::Obstacle;
use crate::{
    call::Scratch,
    cpu, files,
    outcome::State,
    process,
    snapshot::{Snapshot, Warm},
    space::SavedArea,
};

/// What these files are of.
const WHAT: &str = "sandbox";

const SANDBOX: Kind = Kind { name: "sandbox", version: 1 };

/// What is saved beside the records of processor, process and files.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The program waits to be called; else it was not started, or interrupted at its start.
    ready: bool,
    stack: u64,
    scratch: Scratch,
    areas: Vec<SavedArea>,
    /// The global symbols of the program.
    symbols: BTreeMap<String, u64>,
    /// The names of the host's functions that it could call.
    functions: Vec<Vec<u8>>,
}

impl Snapshot {
    /// Writes it to a file, from which [`Sandbox::saved`](crate::Sandbox::saved) goes on, in another
    /// process or on another host.
    ///
    /// The file appears whole or not at all, and takes the place of one that was there. Pages of
    /// zeros take no room in it. It is readable for its owner only: it has all that the program has
    /// in memory.
    ///
    /// ```no_run
    /// # fn score(mut app: vmm_sandbox::Sandbox) -> vmm_sandbox::Result<()> {
    /// app.snapshot()?.save("warm.vmm")?;
    /// let warm = vmm_sandbox::Snapshot::open("warm.vmm")?;
    /// let score: i64 = warm.fork()?.call("score", ("text",))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Host` if the file cannot be written, and what was there stays; `Unsupported` if the program
    /// has a file of the host open that has no name any more; `WrongState` if it was interrupted in
    /// the middle of an exception: interrupt it again; `WrongProcess` in a child of `fork()`.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let warm = self.warm();
        let ready = warm.state == State::Ready;
        let mut out = StateWriter::new();
        out.put(SANDBOX, &record(warm))?;
        out.put(cpu::RECORD, &warm.cpu.record(&warm.space, ready)?)?;
        out.put(process::RECORD, &warm.kept.record())?;
        out.put(files::RECORD, &warm.kept.files_record()?)?;
        let origin = Origin {
            what: WHAT.into(),
            hypervisor: warm.hypervisor.name().into(),
            cpu: seen(&*warm.hypervisor, &warm.model),
        };
        let (memory, pages) = warm.space.pages();
        snapshot::save(path.as_ref(), &origin, out, (memory, &pages))
    }
}

fn record(warm: &Warm) -> Record {
    Record {
        ready: warm.state == State::Ready,
        stack: warm.stack,
        scratch: warm.scratch,
        areas: warm.space.areas(),
        symbols: warm.program.symbols().clone(),
        functions: warm.functions.names().map(<[u8]>::to_vec).collect(),
    }
}

/// All that a program may have seen of the processor, and can use. Where ring 3 is the host's own
/// (user-mode KVM), CPUID and XCR0 are the host's too, whatever the back end was told.
fn seen(hypervisor: &dyn Hypervisor, model: &CpuModel) -> CpuModel {
    let hides = match hypervisor.name() {
        "soft" => true,
        "kvm" => host::probe().kvm == KvmKind::Whole,
        _ => false,
    };
    if hides { model.clone() } else { model.clone().joined_with(&CpuModel::of_host()) }
}
