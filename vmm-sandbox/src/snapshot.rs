//! A sandbox as it was at one moment: forks of it, and the way back to it.

use std::{fmt, sync::Arc};

use vmm_core::{
    Error, Result,
    arch::CpuModel,
    hv::{Hypervisor, VmConfig},
};

use crate::{
    call::{HostFunctions, Scratch},
    cpu::{self, Cpu},
    files::Copies,
    limits::{Ask, Limits, Watch},
    load::Program,
    outcome::State,
    process::Kept,
    sandbox::Sandbox,
    space::{self, Space},
    stream::Capture,
    syscall::fill_random,
    vm_cache::{Home, Shell},
};

/// What tells a sandbox from all others: random, and new in every fork and after every reset.
pub type Identity = [u8; 16];

/// The variable of a program that has its identity (`vmm_guest.h`).
const IDENTITY: &str = "vmm_identity";

/// A sandbox as it was at one moment. Nothing changes it any more.
///
/// It is a cheap handle: clones are the same snapshot, any thread may use one, and it outlives the
/// sandbox it was made of. Forks share its memory until they write.
///
/// ```no_run
/// # fn score(mut app: vmm_sandbox::Sandbox) -> vmm_sandbox::Result<()> {
/// app.start()?;                                    // main() runs up to vmm_ready()
/// let warm = app.snapshot()?;
/// let mut child = warm.fork()?;                    // another VM that shares its pages
/// let score: i64 = child.call("score", ("text",))?;
/// child.reset(&warm)?;                             // as it was when it was forked
/// # Ok(())
/// # }
/// ```
///
/// # What a fork has
/// Memory, registers, descriptors, files in memory, limits, and the output it may still write are as
/// they were. Beyond that:
/// - The monotonic clock and the processor's go on from where they stood; real time is the host's.
/// - [`Identity`] is its own, and `getrandom` gives every sandbox numbers of its own. What the
///   program drew before the snapshot is in its memory and the same in all forks, `AT_RANDOM` too:
///   a generator that was seeded then is to be seeded again when `vmm_identity` has changed.
/// - Functions of the host are the same closures. They may be called from several threads.
/// - Standard input from memory is read by each on its own, captured output is each one's own and
///   starts empty. Streams to the host are shared, as after `fork(2)`.
/// - Granted directories are the same ones: what is written there all see. Files open in them are
///   opened anew, at the same position.
#[derive(Clone)]
pub struct Snapshot(Arc<Warm>);

pub(crate) struct Warm {
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    pub(crate) model: Arc<CpuModel>,
    pub(crate) space: space::Image,
    pub(crate) cpu: cpu::Image,
    pub(crate) kept: Kept,
    captured: [Capture; 2],
    pub(crate) program: Program,
    pub(crate) functions: HostFunctions,
    ask: Option<Ask>,
    limits: Limits,
    pub(crate) state: State,
    pub(crate) scratch: Scratch,
    pub(crate) stack: u64,
    /// Where the program has its identity.
    identity: Option<u64>,
    pub(crate) home: Home,
}

impl Sandbox {
    /// Keeps what the sandbox is now. It goes on as before, and nothing that it does later reaches
    /// the snapshot or a fork; its next writes cost a copy of each page.
    ///
    /// The first snapshot of a sandbox copies no memory. Later ones, and those of forks, copy what
    /// is not zeros.
    ///
    /// # Errors
    /// `WrongState` if the program has ended or was stopped in the middle; `Host` if the host seals
    /// no memory, or a file that the program has open cannot be opened anew; `WrongProcess` in a
    /// child of `fork()`.
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        if !matches!(self.state, State::New | State::Ready) {
            return Err(Error::wrong_state(format!("snapshot: {}", self.state)));
        }
        let _listening = self.process.watch.listen()?;
        if let Some(event) = self.cpu.settle(&mut self.process.space)? {
            return Err(Error::internal(format!("changing page tables: {event:?}")));
        }
        let cpu = self.cpu.image()?;
        let mut copies = Copies::default();
        let kept = self.process.keep(&mut copies)?;
        let captured = copies_of(&self.captured, &mut copies)?;
        copies.fill()?;
        let identity = self.program.symbol(IDENTITY);
        // What fails before leaves the sandbox as it is.
        let space = self.process.space.image()?;
        let snapshot = Snapshot(Arc::new(Warm {
            hypervisor: Arc::clone(&self.hypervisor),
            model: Arc::clone(&self.model),
            space,
            cpu,
            kept,
            captured,
            program: self.program.clone(),
            functions: self.functions.clone(),
            ask: self.process.watch.ask(),
            limits: self.limits,
            state: self.state.clone(),
            scratch: self.scratch,
            stack: self.stack,
            identity,
            home: self.home.clone(),
        }));
        self.base = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Goes back to a snapshot, whatever has become of the program since: what
    /// [`fork`](Snapshot::fork) gives, in the same VM.
    ///
    /// What it costs follows what was written since, if it is the snapshot that the sandbox was
    /// forked from, reset to or made into last. Going to another one is slower. Handles to stop it
    /// stay good; a cancellation that did not come to its effect is forgotten.
    ///
    /// # Errors
    /// `WrongState` if the sandbox is unrecoverable; `Incompatible` if the snapshot is of another
    /// back end, or was told of another processor; `Host` as for a fork, and the sandbox is then unrecoverable; `WrongProcess` in a
    /// child of `fork()`.
    pub fn reset(&mut self, to: &Snapshot) -> Result<()> {
        if matches!(self.state, State::Unrecoverable(_)) {
            return Err(Error::wrong_state(format!("reset: {}", self.state)));
        }
        if !Arc::ptr_eq(&self.hypervisor, &to.0.hypervisor) {
            return Err(Error::incompatible("reset: the snapshot was made with another back end"));
        }
        if self.model != to.0.model {
            return Err(Error::incompatible("reset: the snapshot was told of another processor"));
        }
        // The process's own, too: this fails in a child.
        self.process.watch.listen()?;
        let done = self.become_snapshot(to);
        done.inspect_err(|error| self.state = State::Unrecoverable(error.to_string()))
    }

    fn become_snapshot(&mut self, to: &Snapshot) -> Result<()> {
        let warm = &*to.0;
        let same = self.base.as_ref().is_some_and(|base| Arc::ptr_eq(&base.0, &to.0));
        if same {
            self.process.space.restore(&warm.space)?;
        } else {
            self.process.space.become_image(&warm.space)?;
            self.program = warm.program.clone();
            self.functions = warm.functions.clone();
            self.base = Some(to.clone());
        }
        self.cpu.restore(&warm.cpu)?;
        let touched = !same || !self.process.is_untouched();
        self.process.restore_times(&warm.kept);
        if touched {
            let mut copies = Copies::default();
            self.process.restore(&warm.kept, &mut copies)?;
            self.captured = copies_of(&warm.captured, &mut copies)?;
            copies.fill()?;
        }
        (self.scratch, self.stack) = (warm.scratch, warm.stack);
        self.limits = warm.limits;
        self.state = warm.state.clone();
        self.identify(warm.identity)
    }

    /// Gives what came from a file an identity of its own.
    pub(crate) fn identify_anew(&mut self) -> Result<()> {
        let at = self.program.symbol(IDENTITY);
        self.identify(at)
    }

    /// Gives it a new identity, and tells the program.
    fn identify(&mut self, at: Option<u64>) -> Result<()> {
        fill_random(&mut self.identity)
            .map_err(|errno| Error::host("reading random numbers", errno.raw_os_error()))?;
        if let Some(at) = at {
            // A program that has unmapped it does not want to know.
            let _ = self.process.space.load(at, &self.identity);
        }
        Ok(())
    }
}

impl Snapshot {
    pub(crate) fn warm(&self) -> &Warm {
        &self.0
    }

    /// Another sandbox, in a VM of its own, that goes on from here. It is the caller's alone: what
    /// it does reaches neither the snapshot nor any other fork. With KVM it takes two descriptors.
    ///
    /// # Errors
    /// `Host` if the host gives no VM, memory or descriptor, or a file of the host that the program
    /// has open cannot be opened anew; `WrongProcess` in a child of `fork()`.
    pub fn fork(&self) -> Result<Sandbox> {
        self.fork_now().map_err(|error| match error.os_error() {
            Some(libc::EMFILE) => error.context(no_descriptor()),
            _ => error,
        })
    }

    fn fork_now(&self) -> Result<Sandbox> {
        let warm = &*self.0;
        let (mut space, cpu) = match warm.home.take(&warm.hypervisor, &warm.model, &warm.space) {
            Some(shell) => warm.in_shell(shell)?,
            None => warm.in_new_vm()?,
        };
        space.settle()?;
        let mut copies = Copies::default();
        let watch = Watch::new(warm.limits, warm.ask.clone(), cpu.kicker());
        let process = warm.kept.process(space, watch, &mut copies)?;
        let captured = copies_of(&warm.captured, &mut copies)?;
        copies.fill()?;
        let mut sandbox = Sandbox {
            hypervisor: Arc::clone(&warm.hypervisor),
            model: Arc::clone(&warm.model),
            process,
            cpu,
            program: warm.program.clone(),
            functions: warm.functions.clone(),
            limits: warm.limits,
            captured,
            state: warm.state.clone(),
            scratch: warm.scratch,
            stack: warm.stack,
            base: Some(self.clone()),
            identity: Identity::default(),
            home: warm.home.clone(),
        };
        sandbox.identify(warm.identity)?;
        Ok(sandbox)
    }

    /// What its forks can do next.
    pub fn state(&self) -> &State {
        &self.0.state
    }

    /// The limit of a fork's memory in bytes, as the builder was told.
    pub fn memory(&self) -> u64 {
        self.0.kept.memory()
    }
}

impl Warm {
    fn in_new_vm(&self) -> Result<(Space, Cpu)> {
        let vm = self.hypervisor.create_vm(&VmConfig { vcpus: 1, irq: None })?;
        let space = Space::of_image(Arc::clone(&vm), &self.space)?;
        Ok((space, Cpu::of_image(&vm, &self.model, &self.cpu)?))
    }

    /// In a VM that another sandbox had. The vCPU goes first: it is not to outlive the memory.
    fn in_shell(&self, shell: Shell) -> Result<(Space, Cpu)> {
        let Shell { space, vcpu, .. } = shell;
        let cpu = Cpu::of_image_in(vcpu, &self.cpu)?;
        Ok((Space::of_image_in(space, &self.space)?, cpu))
    }
}

/// What stands in the way of another fork.
fn no_descriptor() -> String {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or("none".to_owned(), |limit| limit.to_string());
    format!("the limit of open files (RLIMIT_NOFILE, now {limit}) leaves no room for a fork")
}

fn copies_of(captured: &[Capture; 2], copies: &mut Copies) -> Result<[Capture; 2]> {
    let [stdout, stderr] = captured;
    Ok([stdout.copy(copies)?, stderr.copy(copies)?])
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("state", &self.0.state).finish_non_exhaustive()
    }
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Snapshot>();
};
