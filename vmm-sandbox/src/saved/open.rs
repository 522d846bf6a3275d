//! From a file to a sandbox.

use std::{path::Path, sync::Arc};

use vmm_core::{
    Error, Result,
    arch::CpuModel,
    host::{self, Need},
    hv::{Hypervisor, VmConfig},
    persist::StateReader,
    snapshot::{Allowed, Saved},
};

use super::{Obstacle, Record, SANDBOX, WHAT, seen};
use crate::{
    builder::{Builder, entry},
    call::HostFunctions,
    cpu::{self, Cpu},
    files::{self, Handle},
    grant,
    limits::Watch,
    load::Program,
    outcome::State,
    process,
    sandbox::{Parts, Sandbox},
    snapshot::Snapshot,
    space::Space,
};

/// What records may take beside the files in memory: symbols, areas, registers.
const RECORDS: u64 = 64 << 20;

/// All that a file has, read and checked as far as that goes without a sandbox.
struct Opened {
    saved: Saved,
    sandbox: Record,
    cpu: cpu::Record,
    process: process::Record,
    files: files::Record,
}

impl Snapshot {
    /// Opens a file of [`save`](Self::save), for a program that was lent nothing and asks for no more
    /// than what [`Sandbox::saved`] gives unless told otherwise.
    ///
    /// # Errors
    /// As for [`Builder::build`] and [`Sandbox::snapshot`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Sandbox::saved(path.as_ref()).build()?.snapshot()
    }
}

impl Builder {
    /// What stands in the way of [`build`](Self::build) here, for a snapshot in a file, with what
    /// was given so far. For a program that is to be started nothing does.
    ///
    /// # Errors
    /// `Snapshot` and `Incompatible` if it is no snapshot that this build reads; `Host` if the file
    /// cannot be read; `NoHypervisor` if there is none.
    pub fn check(&self) -> Result<Vec<Obstacle>> {
        let Some(path) = self.saved_path() else { return Ok(Vec::new()) };
        let opened = Opened::read(path, self.memory, self.file_limit)?;
        let own = match &self.hypervisor {
            Some(hypervisor) => Arc::clone(hypervisor),
            None => host::best(Need::Program)?.into(),
        };
        Ok(self.obstacles(&opened, &self.model(&*own), &*own))
    }

    /// What the sandbox is made of, if that is a snapshot.
    pub(crate) fn resume(self, path: &Path) -> Result<Sandbox> {
        let opened = Opened::read(path, self.memory, self.file_limit)?;
        let hypervisor = match &self.hypervisor {
            Some(hypervisor) => Arc::clone(hypervisor),
            None => host::best(Need::Program)?.into(),
        };
        let here = self.model(&*hypervisor);
        let obstacles = self.obstacles(&opened, &here, &*hypervisor);
        if !obstacles.is_empty() {
            let reasons: Vec<_> = obstacles.iter().map(Obstacle::to_string).collect();
            let message = format!("{}: {}", path.display(), reasons.join("; "));
            return Err(Error::incompatible(message));
        }
        let model = Arc::new(opened.saved.origin().cpu.clone().common_with(&here));
        self.resume_with(&opened, hypervisor, model).map_err(|error| error.context(path.display()))
    }

    fn resume_with(
        self,
        opened: &Opened,
        hypervisor: Arc<dyn Hypervisor>,
        model: Arc<CpuModel>,
    ) -> Result<Sandbox> {
        let record = &opened.sandbox;
        let vm = hypervisor.create_vm(&VmConfig { vcpus: 1, irq: None })?;
        let (areas, saved) = (&record.areas, &opened.saved);
        let mut space = Space::of_saved(Arc::clone(&vm), self.memory, areas, saved)?;
        let mut cpu = Cpu::new(&vm, &model, entry(&*hypervisor), &mut space)?;
        let offered = cpu::components(&seen(&*hypervisor, &model));
        cpu.resume(&opened.cpu, offered)?;
        let mut namespace = grant::namespace(self.file_limit, self.mounts)?;
        let captured = [self.stdout.captured(), self.stderr.captured()];
        let streams = [
            Handle::new(self.stdin),
            Handle::new(self.stdout.numbered(1)),
            Handle::new(self.stderr.numbered(2)),
        ];
        let files = opened.files.open(&mut namespace, streams)?;
        let watch = Watch::new(self.limits, self.ask, cpu.kicker());
        let lent = process::Lent {
            space,
            files,
            namespace,
            memory: self.memory,
            output_left: self.limits.output,
            watch,
        };
        let mut sandbox = Sandbox::new(Parts {
            hypervisor,
            model,
            process: opened.process.process(lent)?,
            cpu,
            program: Program::of_symbols(record.symbols.clone()),
            functions: self.functions,
            limits: self.limits,
            captured,
            home: self.home,
        });
        sandbox.state = if record.ready { State::Ready } else { State::New };
        (sandbox.scratch, sandbox.stack) = (record.scratch, record.stack);
        sandbox.identify_anew()?;
        Ok(sandbox)
    }

    /// The processor that a program gets here.
    fn model(&self, hypervisor: &dyn Hypervisor) -> CpuModel {
        let own = &hypervisor.caps().cpu;
        self.cpu.as_ref().map_or_else(|| own.clone(), |wanted| wanted.clone().common_with(own))
    }

    fn obstacles(
        &self,
        opened: &Opened,
        model: &CpuModel,
        hypervisor: &dyn Hypervisor,
    ) -> Vec<Obstacle> {
        let (seen, here) = (&opened.saved.origin().cpu, &seen(hypervisor, model));
        let mut found = Vec::new();
        if !self.baseline_only {
            let missing = seen.program_features_missing_in(here);
            found.extend(missing.into_iter().map(Obstacle::Feature));
        }
        let lost = opened.cpu.components_lost(seen, here, cpu::components(here));
        if lost != 0 {
            found.push(Obstacle::Registers(lost));
        }
        found.extend(missing_functions(&opened.sandbox.functions, &self.functions));
        let grants = opened.files.grants().iter();
        let missing = grants.filter(|grant| !self.mounts.iter().any(|mount| mount.serves(grant)));
        found.extend(missing.map(|grant| Obstacle::Directory(shown(&grant.path))));
        if !opened.files.has_granted_root() && self.mounts.iter().any(grant::Mount::is_root) {
            found.push(Obstacle::Directory("/".into()));
        }
        found
    }
}

fn missing_functions<'a>(
    wanted: &'a [Vec<u8>],
    given: &'a HostFunctions,
) -> impl Iterator<Item = Obstacle> + 'a {
    let missing = wanted.iter().filter(|name| !given.names().any(|given| given == *name));
    missing.map(|name| Obstacle::Function(String::from_utf8_lossy(name).into_owned()))
}

fn shown(path: &[Vec<u8>]) -> String {
    let names = path.iter().map(|name| format!("/{}", name.escape_ascii()));
    if path.is_empty() { "/".into() } else { names.collect() }
}

impl Opened {
    fn read(path: &Path, memory: u64, file_limit: u64) -> Result<Self> {
        let allowed = Allowed { memory, records: file_limit.saturating_add(RECORDS) };
        let mut saved = Saved::open(path, WHAT, allowed)?;
        let records = saved.take_records();
        let read = Self::records(records);
        let (sandbox, cpu, process, files) =
            read.map_err(|error| error.context(format!("{}: records", path.display())))?;
        Ok(Self { saved, sandbox, cpu, process, files })
    }

    fn records(mut from: StateReader) -> Result<Records> {
        let (sandbox, cpu) = (from.take(SANDBOX)?, from.take(cpu::RECORD)?);
        let (process, files) = (from.take(process::RECORD)?, from.take(files::RECORD)?);
        from.finish()?;
        Ok((sandbox, cpu, process, files))
    }
}

type Records = (Record, cpu::Record, process::Record, files::Record);
