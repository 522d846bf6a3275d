//! From a description to a sandbox.

use std::{
    borrow::Cow,
    fmt,
    ops::ControlFlow,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use vmm_core::{
    Error, Result,
    arch::CpuModel,
    host::{self, KvmKind, Need},
    hv::{Hypervisor, VmConfig},
};

use crate::{
    call::{HostFunction, HostFunctions},
    clock::Clock,
    cpu::{Cpu, Entry},
    files::{Files, Handle},
    grant::{self, Access, Mount},
    limits::{Ask, Limits, Watch},
    load::{self, Program, Source, Start},
    process::{Counts, Heap, Process},
    sandbox::{Parts, Sandbox},
    space::{PAGE, Space},
    stream::{Input, Output},
    syscall,
    vm_cache::{Home, VmCache},
};

/// The least memory, and what is given unless more is asked for.
const LEAST_MEMORY: u64 = 1 << 20;
/// Page tables hold 46 bits of addresses on every processor.
const MOST_MEMORY: u64 = 1 << 46;
const MEMORY: u64 = 64 << 20;
/// The most of the memory that the stack takes, and its most.
const STACK_SHARE: u64 = 8;
const STACK: u64 = 8 << 20;
/// What may be put out unless more is asked for.
const OUTPUT: u64 = 64 << 20;
/// What its files in memory may take unless more is asked for.
const FILES: u64 = 16 << 20;
/// What programs usually start with.
const UMASK: u32 = 0o022;
/// Nobody in particular.
const USER: u32 = 1000;

/// What a sandbox is made of: [`Sandbox::program`] starts one, [`build`](Self::build) makes it.
#[must_use]
pub struct Builder {
    image: Image,
    arguments: Option<Vec<Vec<u8>>>,
    environment: Vec<Vec<u8>>,
    pub(crate) hypervisor: Option<Arc<dyn Hypervisor>>,
    pub(crate) cpu: Option<CpuModel>,
    pub(crate) baseline_only: bool,
    pub(crate) memory: u64,
    pub(crate) functions: HostFunctions,
    pub(crate) limits: Limits,
    pub(crate) ask: Option<Ask>,
    pub(crate) stdin: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    user: (u32, u32),
    pub(crate) file_limit: u64,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) home: Home,
}

enum Image {
    Bytes(Cow<'static, [u8]>),
    Path(PathBuf),
    Saved(PathBuf),
}

impl Builder {
    pub(crate) fn of_path(path: PathBuf) -> Self {
        Self::new(Image::Path(path))
    }

    pub(crate) fn of_bytes(image: Cow<'static, [u8]>) -> Self {
        Self::new(Image::Bytes(image))
    }

    pub(crate) fn of_saved(path: PathBuf) -> Self {
        Self::new(Image::Saved(path))
    }

    /// The file, if it is a snapshot.
    pub(crate) fn saved_path(&self) -> Option<&Path> {
        match &self.image {
            Image::Saved(path) => Some(path),
            Image::Bytes(_) | Image::Path(_) => None,
        }
    }

    fn new(image: Image) -> Self {
        Self {
            image,
            arguments: None,
            environment: Vec::new(),
            hypervisor: None,
            cpu: None,
            baseline_only: false,
            memory: MEMORY,
            functions: HostFunctions::default(),
            limits: Limits { output: OUTPUT, ..Limits::default() },
            ask: None,
            stdin: Input::default(),
            stdout: Output::default(),
            stderr: Output::default(),
            user: (USER, USER),
            file_limit: FILES,
            mounts: Vec::new(),
            home: Home::default(),
        }
    }

    /// The arguments, the program's name first. Without this there is the name only.
    pub fn args<T: Into<Vec<u8>>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// Adds a variable to the environment, which starts empty.
    pub fn env(mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        let mut variable = name.into();
        variable.push(b'=');
        variable.extend(value.into());
        self.environment.push(variable);
        self
    }

    /// A function that the program can call by this name (`vmm_call` of `vmm_guest.h`).
    ///
    /// It runs on the sandbox's thread, between two instructions of the program. If it panics, the
    /// program is killed. What the program passes is checked before: arguments that the closure does
    /// not take (too many or few, of another kind, out of range, text that is not UTF-8) are the
    /// program's mistake, and it is told so by `EINVAL`; the closure is not called.
    ///
    /// ```no_run
    /// # use vmm_sandbox::Sandbox;
    /// let sandbox = Sandbox::program("./guest")
    ///     .host_fn("lookup", |key: &str| -> Vec<u8> { key.to_uppercase().into_bytes() });
    /// ```
    pub fn host_fn<A>(mut self, name: impl Into<String>, function: impl HostFunction<A>) -> Self {
        self.functions.add(name.into(), function);
        self
    }

    /// The back end; without this the best one for programs ([`host::best`]).
    pub fn hypervisor(mut self, hypervisor: impl Into<Arc<dyn Hypervisor>>) -> Self {
        self.hypervisor = Some(hypervisor.into());
        self
    }

    /// The processor that the program is told of, as far as the host has it; without this, all that
    /// the back end has. One that two hosts have in common ([`CpuModel::common_with`]) makes
    /// snapshots that go on on both.
    ///
    /// Where ring 3 sees the host's own CPUID (user-mode KVM) this hides nothing.
    pub fn cpu(mut self, model: CpuModel) -> Self {
        self.cpu = Some(model);
        self
    }

    /// The caller knows that the program of a saved snapshot uses no instruction beyond the first
    /// x86-64 processors' (SSE2), whatever it was shown of the one it ran on. Without this it may
    /// have used everything, and goes on only where that is.
    pub fn baseline_only(mut self) -> Self {
        self.baseline_only = true;
        self
    }

    /// All the memory of the sandbox in bytes: the program, its heap, mappings and stack, and the
    /// page tables. 64 MiB unless said otherwise, at least 1 MiB; rounded up to a page. The host
    /// gives only what is touched.
    ///
    /// The stack is an eighth of it, at most 8 MiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        self
    }

    /// How long a start or a call may take; no limit unless said otherwise.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limits.time = Some(limit);
        self
    }

    /// How much processor time a start or a call may take, the host's work for it included; no
    /// limit unless said otherwise.
    pub fn cpu_time(mut self, limit: Duration) -> Self {
        self.limits.cpu_time = Some(limit);
        self
    }

    /// Asks whether to go on: right after a signal was handled on the thread that runs the program,
    /// and every 50 ms. With [`ControlFlow::Break`], or a panic, the start or call ends with
    /// [`Cause::Interrupted`](crate::Cause::Interrupted). Without this, signals do not end it.
    ///
    /// The closure runs on that thread, between two instructions of the program or while the host
    /// waits on its behalf. It is how an interpreter has its own handlers run during a long call.
    pub fn interruptible(
        mut self,
        ask: impl Fn() -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.ask = Some(Arc::new(ask));
        self
    }

    /// How many bytes the program may write to standard output and standard error in all: 64 MiB
    /// unless said otherwise.
    pub fn output_limit(mut self, bytes: u64) -> Self {
        self.limits.output = bytes;
        self
    }

    /// Standard input; empty unless said otherwise.
    pub fn stdin(mut self, input: impl Into<Input>) -> Self {
        self.stdin = input.into();
        self
    }

    /// Standard output; captured unless said otherwise.
    pub fn stdout(mut self, output: impl Into<Output>) -> Self {
        self.stdout = output.into();
        self
    }

    /// Standard error; captured unless said otherwise.
    pub fn stderr(mut self, output: impl Into<Output>) -> Self {
        self.stderr = output.into();
        self
    }

    /// How many bytes the program's files in memory may take, names included, and what the host
    /// keeps for files that are open, such as the names of a directory: 16 MiB unless said otherwise.
    pub fn file_limit(mut self, bytes: u64) -> Self {
        self.file_limit = bytes;
        self
    }

    /// Makes a directory of the host the program's root. `/dev` and `/proc` stay the sandbox's own.
    ///
    /// Without this the root is in memory, and empty but for `/dev`, `/proc` and `/tmp`.
    pub fn root(self, directory: impl Into<PathBuf>, access: Access) -> Self {
        self.mount(directory, "/", access)
    }

    /// Shows the program a directory of the host at the path `at`. It sees the files, directories
    /// and links below; links lead to its own files, never out of what was granted. Devices,
    /// sockets and pipes there cannot be opened.
    pub fn mount(
        mut self,
        directory: impl Into<PathBuf>,
        at: impl Into<Vec<u8>>,
        access: Access,
    ) -> Self {
        self.mounts.push(Mount { directory: directory.into(), at: at.into(), access });
        self
    }

    /// Gives the VM to this cache when the sandbox is dropped, and those of all its forks, which take
    /// theirs from there. Programs that are to use each other's VMs are given the same
    /// [`hypervisor`](Self::hypervisor).
    pub fn vm_cache(mut self, cache: &VmCache) -> Self {
        self.home = cache.home();
        self
    }

    /// The user and group that the program finds itself as: 1000 and 1000 unless said otherwise.
    /// They mean nothing to the host.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = (uid, gid);
        self
    }

    /// Makes the sandbox. The program is loaded and has not begun.
    ///
    /// # Errors
    /// `BadImage` if the program is not a static x86-64 Linux program; `BadConfig` if it does not
    /// fit the memory, or a setting is out of range; `Host` if its file or a directory cannot be
    /// opened, or the host gives no VM; `NoHypervisor` if there is none.
    pub fn build(self) -> Result<Sandbox> {
        let memory = self.memory;
        if !(LEAST_MEMORY..=MOST_MEMORY).contains(&memory) {
            let message = format!("{memory} bytes of memory: 1 MiB to 64 TiB can be given");
            return Err(Error::bad_config(message));
        }
        if let Image::Saved(path) = &self.image {
            let path = path.clone();
            return self.resume(&path);
        }
        let (image, name) = self.image.open()?;
        let program = Program::parse(&image)?;
        let hypervisor = match self.hypervisor {
            Some(hypervisor) => hypervisor,
            None => host::best(Need::Program)?.into(),
        };
        let vm = hypervisor.create_vm(&VmConfig { vcpus: 1, irq: None })?;
        let mut space = Space::new(Arc::clone(&vm), memory)?;
        let model = told(self.cpu, &hypervisor.caps().cpu);
        let mut cpu = Cpu::new(&vm, &model, entry(&*hypervisor), &mut space)?;
        let stack_size = (memory / STACK_SHARE).min(STACK) / PAGE * PAGE;
        let mut random = [0; 16];
        syscall::fill_random(&mut random)
            .map_err(|errno| Error::host("reading random numbers", errno.raw_os_error()))?;
        let (uid, gid) = self.user;
        let (layout, rsp) = load::load(
            &mut space,
            &program,
            &image,
            &Start {
                arguments: self.arguments.as_deref().unwrap_or(std::slice::from_ref(&name)),
                environment: &self.environment,
                path: &name,
                stack_size,
                random,
                uid,
                gid,
                hardware: model.leaf(1, 0).map_or(0, |leaf| leaf.regs[3]),
            },
        )?;
        cpu.start(program.entry, rsp)?;
        let namespace = grant::namespace(self.file_limit, self.mounts)?;
        let captured = [self.stdout.captured(), self.stderr.captured()];
        let streams = [
            Handle::new(self.stdin),
            Handle::new(self.stdout.numbered(1)),
            Handle::new(self.stderr.numbered(2)),
        ];
        let process = Process {
            space,
            heap: Heap { start: layout.heap, end: layout.heap },
            mappings_end: layout.mappings_end,
            files: Files::new(streams),
            namespace,
            umask: UMASK,
            name: shown_path(&name),
            signals: syscall::Signals::default(),
            clock: Clock::new(Duration::ZERO),
            uid,
            gid,
            memory,
            stack_size,
            output_left: self.limits.output,
            watch: Watch::new(self.limits, self.ask, cpu.kicker()),
            counts: Counts::default(),
            ended: None,
        };
        Ok(Sandbox::new(Parts {
            hypervisor,
            model: Arc::new(model),
            process,
            cpu,
            program,
            functions: self.functions,
            limits: self.limits,
            captured,
            home: self.home,
        }))
    }
}

/// The processor that a program is told of, of what the back end has.
fn told(wanted: Option<CpuModel>, own: &CpuModel) -> CpuModel {
    wanted.map_or_else(|| own.clone(), |wanted| wanted.common_with(own))
}

impl Image {
    /// Where the bytes are, and what the program is called.
    fn open(self) -> Result<(Source, Vec<u8>)> {
        match self {
            Self::Bytes(image) => Ok((Source::Bytes(image), b"program".to_vec())),
            Self::Path(path) => {
                let image = Source::open(&path).map_err(|error| {
                    let doing = format!("reading {}", path.display());
                    Error::host(doing, error.raw_os_error().unwrap_or(libc::EIO))
                })?;
                Ok((image, path.into_os_string().into_vec()))
            }
            Self::Saved(_) => Err(Error::internal("a snapshot is no image")),
        }
    }
}

/// The path that a program finds itself at: its name in the root, nothing of where the host has it.
/// A C library relies on its being absolute.
fn shown_path(name: &[u8]) -> Vec<u8> {
    let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
    [b"/", last].concat()
}

/// The fast way for system calls needs the software CPU, or a KVM whose SYSCALL was seen to enter
/// ring 0; the other one works everywhere.
pub(crate) fn entry(hypervisor: &dyn Hypervisor) -> Entry {
    match hypervisor.name() {
        "soft" => Entry::Syscall,
        "kvm" if host::probe().kvm == KvmKind::Whole => Entry::Syscall,
        _ => Entry::Trap,
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Builder");
        match &self.image {
            Image::Bytes(_) => {}
            Image::Path(path) => drop(shown.field("program", path)),
            Image::Saved(path) => drop(shown.field("snapshot", path)),
        }
        shown.field("memory", &self.memory).field("limits", &self.limits).finish_non_exhaustive()
    }
}
