//! The description of a sandbox.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    ffi::{c_char, c_void},
    ops::ControlFlow,
};

use ::vmm_sandbox::{Access, Builder, HostFunction, Input, Obstacle, Sandbox, Value};
use vmm_core::{Error, Result, host::Need};

use crate::{
    backend,
    error::{vmm_error, vmm_status},
    guard::{Exclusive, guard, made},
    pass,
    sandbox::vmm_sandbox,
    user::User,
    value::{vmm_result, vmm_value},
    vm_cache::vmm_vm_cache,
};

/// The description of a sandbox. Without more than the program: the best back end of this host, 64
/// MiB of memory, no arguments but the program's name, an empty environment, nothing of the host to
/// be seen, input empty, output captured, no limit of time.
pub struct vmm_sandbox_config(Exclusive<Option<Description>>);

/// What there is to say of a description that is empty.
const USED: &str = "sandbox config: a sandbox was made of it before";

struct Description {
    builder: Result<Builder>,
    arguments: Vec<Vec<u8>>,
    backend: Option<String>,
}

impl Description {
    /// Adds to it what `make` gives; remembers why it gives nothing.
    fn add(&mut self, make: impl FnOnce(Builder) -> Result<Builder>) {
        let used = Err(Error::internal("sandbox config: a setting panicked"));
        self.builder = std::mem::replace(&mut self.builder, used).and_then(make);
    }

    fn build(self) -> Result<Sandbox> {
        let mut builder = self.builder?;
        if !self.arguments.is_empty() {
            builder = builder.args(self.arguments);
        }
        let chosen = backend::choose(self.backend.as_deref(), Need::Program)?;
        builder.hypervisor(chosen.hypervisor).build()
    }

    /// What stands in the way of `build`, for which it stays as it is.
    fn check(&mut self) -> Result<Vec<Obstacle>> {
        let chosen = backend::choose(self.backend.as_deref(), Need::Program)?;
        self.add(|builder| Ok(builder.hypervisor(chosen.hypervisor)));
        match &self.builder {
            Ok(builder) => builder.check(),
            Err(error) => Err(error.clone()),
        }
    }
}

impl vmm_sandbox_config {
    pub(crate) fn check(&self) -> Result<Vec<Obstacle>> {
        let used = || Error::wrong_state(USED);
        self.0.with(|description| description.as_mut().ok_or_else(used)?.check())
    }
}

/// Changes the description, if there is one.
///
/// # Safety
/// As for [`pass::object`].
unsafe fn change(config: *mut vmm_sandbox_config, change: impl FnOnce(&mut Description)) {
    // SAFETY: the caller's promise.
    if let Some(config) = unsafe { config.as_ref() } {
        config.0.change(change);
    }
}

fn describe(builder: Result<Builder>) -> vmm_sandbox_config {
    let description = Description { builder, arguments: Vec::new(), backend: None };
    vmm_sandbox_config(Exclusive::new("sandbox config", Some(description)))
}

/// The description of a sandbox that runs the program at this path of the host: a static x86-64 Linux
/// executable. Freed with vmm_sandbox_config_free, also after a sandbox was made of it.
///
///     vmm_sandbox_config *config = vmm_sandbox_config_program("./hostcall");
///     vmm_value text = vmm_text("the quick brown fox"), score = vmm_int64(0);
///
///     vmm_sandbox_config_add_host_fn(config, "points", points, NULL, NULL);
///     vmm_sandbox_config_set_timeout(config, 1000000000);
///     vmm_sandbox_new(config, &app, NULL);
///     vmm_sandbox_config_free(config);
///     vmm_sandbox_start(app, NULL, NULL);          // main() runs until it is ready.
///     vmm_sandbox_call(app, "score", &text, 1, &score, NULL);
///     vmm_sandbox_free(app);
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_program(
    path: *const c_char,
) -> *mut vmm_sandbox_config {
    // SAFETY: the header's rules.
    made(|| describe(unsafe { pass::path(path, "path") }.map(Sandbox::program)))
}

/// The same for an executable in memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_image(
    data: *const c_void,
    size: usize,
) -> *mut vmm_sandbox_config {
    // SAFETY: the header's rules.
    let image = unsafe { pass::bytes(data.cast(), size, "data") };
    made(|| describe(image.map(|image| Sandbox::image(image.to_vec()))))
}

/// The description of a sandbox that goes on where the snapshot in this file (vmm_snapshot_save)
/// stood, in the state it had, with random numbers of its own.
///
/// It is given again what is not in the file, as to a program: limits, functions of the host,
/// standard streams, directories. What it has is its own: arguments, environment, user. The file is
/// not trusted, and may take no more than the description allows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_saved(path: *const c_char) -> *mut vmm_sandbox_config {
    // SAFETY: the header's rules.
    made(|| describe(unsafe { pass::path(path, "path") }.map(Sandbox::saved)))
}

/// Frees a description, with what no sandbox has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_free(config: *mut vmm_sandbox_config) {
    // SAFETY: the header's rules.
    unsafe { pass::free(config) };
}

/// What runs the program: "kvm", "soft" for the CPU in software, or "auto" for the best of this
/// host; that is the default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_backend(
    config: *mut vmm_sandbox_config,
    name: *const c_char,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| match pass::text(name, "backend") {
            Ok(name) => description.backend = Some(name.to_owned()),
            Err(error) => description.add(|_| Err(error)),
        });
    }
}

/// The caller knows that the program of a snapshot uses no instruction beyond the first x86-64
/// processors' (SSE2), whatever it was shown of the one it ran on. Without this it may have used
/// everything, and goes on only where that is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_baseline_only(config: *mut vmm_sandbox_config) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| description.add(|builder| Ok(builder.baseline_only())));
    }
}

/// One more argument of the program, the first of which is its name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_add_arg(
    config: *mut vmm_sandbox_config,
    argument: *const c_char,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| match pass::c_text(argument, "argument") {
            Ok(argument) => description.arguments.push(argument.to_bytes().to_vec()),
            Err(error) => description.add(|_| Err(error)),
        });
    }
}

/// One more variable of the program's environment.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_add_env(
    config: *mut vmm_sandbox_config,
    name: *const c_char,
    value: *const c_char,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                let name = pass::c_text(name, "name")?.to_bytes();
                Ok(builder.env(name, pass::c_text(value, "value")?.to_bytes()))
            });
        });
    }
}

/// All the memory of the sandbox in bytes; the host gives only what is touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_memory(
    config: *mut vmm_sandbox_config,
    bytes: u64,
) {
    // SAFETY: the header's rules.
    unsafe { change(config, |description| description.add(|builder| Ok(builder.memory(bytes)))) };
}

/// How many nanoseconds a start or a call may take; 0 for no limit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_timeout(config: *mut vmm_sandbox_config, ns: u64) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                Ok(match pass::limit(ns) {
                    Some(limit) => builder.timeout(limit),
                    None => builder,
                })
            });
        });
    }
}

/// How many nanoseconds of processor time a start or a call may take; 0 for no limit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_cpu_time(config: *mut vmm_sandbox_config, ns: u64) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                Ok(match pass::limit(ns) {
                    Some(limit) => builder.cpu_time(limit),
                    None => builder,
                })
            });
        });
    }
}

/// How many bytes the program may write to standard output and standard error in all: 64 MiB unless
/// said otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_output_limit(
    config: *mut vmm_sandbox_config,
    bytes: u64,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| description.add(|builder| Ok(builder.output_limit(bytes))));
    }
}

/// How many bytes the program's files in memory may take: 16 MiB unless said otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_file_limit(
    config: *mut vmm_sandbox_config,
    bytes: u64,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| description.add(|builder| Ok(builder.file_limit(bytes))));
    }
}

/// Gives the VM to this cache when the sandbox is freed, and those of all forks of its snapshots, which
/// take theirs from there. The cache can be freed at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_vm_cache(
    config: *mut vmm_sandbox_config,
    cache: *const vmm_vm_cache,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| Ok(builder.vm_cache(pass::object(cache, "cache")?.cache())));
        });
    }
}

/// The user and group that the program finds itself as: 1000 and 1000 unless said otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_user(
    config: *mut vmm_sandbox_config,
    uid: u32,
    gid: u32,
) {
    // SAFETY: the header's rules.
    unsafe { change(config, |description| description.add(|builder| Ok(builder.user(uid, gid)))) };
}

/// These bytes are standard input.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_stdin(
    config: *mut vmm_sandbox_config,
    data: *const c_void,
    size: usize,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                Ok(builder.stdin(Input::bytes(pass::bytes(data.cast(), size, "data")?)))
            });
        });
    }
}

/// Descriptors for standard input, output and error; -1 for what stays as it is. What goes to a
/// descriptor is not captured.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_stdio(
    config: *mut vmm_sandbox_config,
    input: i32,
    output: i32,
    errors: i32,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|mut builder| {
                if input != -1 {
                    builder = builder.stdin(pass::descriptor(input, "input")?);
                }
                if output != -1 {
                    builder = builder.stdout(pass::descriptor(output, "output")?);
                }
                if errors != -1 {
                    builder = builder.stderr(pass::descriptor(errors, "errors")?);
                }
                Ok(builder)
            });
        });
    }
}

/// Shows the program the host's directory `directory` at its own path `at`, such as "/" or "/data";
/// it sees nothing outside of it, by links neither. Read-only unless `writable`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_add_mount(
    config: *mut vmm_sandbox_config,
    directory: *const c_char,
    at: *const c_char,
    writable: bool,
) {
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
                let at = pass::c_text(at, "at")?.to_bytes();
                Ok(builder.mount(pass::path(directory, "directory")?, at, access))
            });
        });
    }
}

/// A function of the host that a program can call. It runs on the thread that runs the sandbox; of
/// sandboxes that run at the same time and share it, on several at once.
/// `arguments` are VMM_KIND_INT64, VMM_KIND_DOUBLE, VMM_KIND_BYTES or VMM_KIND_NOTHING and live as
/// long as the call; `result` is told by vmm_result_int64 and its like, else it is nothing. Gives 0,
/// or anything else for arguments that it does not take: the program gets EINVAL.
pub type vmm_host_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        arguments: *const vmm_value,
        count: usize,
        result: *mut vmm_result,
    ) -> i32,
>;

/// Called when the library is done with `user`.
pub type vmm_drop_fn = Option<unsafe extern "C" fn(user: *mut c_void)>;

/// A function of the caller's, and what it is called with.
struct Function {
    function: vmm_host_fn,
    user: User,
}

/// The kind of arguments that [`Function`] takes: any.
struct Any;

impl HostFunction<Any> for Function {
    fn call(&self, arguments: Vec<Value>) -> Option<Value> {
        let seen: Vec<_> = arguments.iter().map(vmm_value::seen).collect();
        let mut result = vmm_result(Value::Nothing);
        let function = self.function?;
        // SAFETY: the caller's function with the caller's pointer, and values that outlive the call.
        let answer =
            unsafe { function(self.user.pointer, seen.as_ptr(), seen.len(), &raw mut result) };
        (answer == 0).then_some(result.0)
    }
}

/// Whether the program may go on: 0 if it may.
pub type vmm_ask_fn = Option<unsafe extern "C" fn(user: *mut c_void) -> i32>;

/// A question of the caller's, and what it is asked with.
struct Question {
    ask: vmm_ask_fn,
    user: User,
}

impl Question {
    fn ask(&self) -> ControlFlow<()> {
        // SAFETY: the caller's function with the caller's pointer.
        match self.ask.map_or(0, |ask| unsafe { ask(self.user.pointer) }) {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }
}

/// Calls `ask` on the thread that runs the program, right after a signal was handled there and every
/// 50 ms; if it does not give 0, the start or call ends with VMM_CAUSE_INTERRUPTED. It is how an
/// interpreter has its own handlers run. `drop` as for vmm_sandbox_config_add_host_fn.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_set_interruptible(
    config: *mut vmm_sandbox_config,
    ask: vmm_ask_fn,
    user: *mut c_void,
    drop: vmm_drop_fn,
) {
    let question = Question { ask, user: User { pointer: user, drop } };
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| Ok(builder.interruptible(move || question.ask())));
        });
    }
}

/// Gives the program a function of the host by this name (vmm_call of vmm_guest.h). `drop` may be
/// NULL; it is called when the sandbox is freed, or the description if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_config_add_host_fn(
    config: *mut vmm_sandbox_config,
    name: *const c_char,
    function: vmm_host_fn,
    user: *mut c_void,
    drop: vmm_drop_fn,
) {
    let function = Function { function, user: User { pointer: user, drop } };
    // SAFETY: the header's rules.
    unsafe {
        change(config, |description| {
            description.add(|builder| {
                if function.function.is_none() {
                    return Err(Error::bad_config("function is NULL"));
                }
                Ok(builder.host_fn(pass::text(name, "name")?, function))
            });
        });
    }
}

/// Makes the sandbox; its program is loaded and has executed nothing yet. A description makes one
/// sandbox: it is empty afterwards, and still to be freed.
///
/// VMM_STATUS_BAD_CONFIG with the first setting that was wrong; VMM_STATUS_HOST with the file or
/// directory that cannot be opened, or if the host gives no VM; VMM_STATUS_BAD_IMAGE if the program is
/// not a static x86-64 Linux executable; VMM_STATUS_WRONG_STATE if a sandbox was made of it before.
///
/// Of a snapshot in a file: VMM_STATUS_SNAPSHOT with the name of the section that was changed or cut,
/// or is larger than allowed; VMM_STATUS_INCOMPATIBLE if it is of another version or thing, or with all
/// that stands in its way (vmm_sandbox_config_check).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_sandbox_new(
    config: *mut vmm_sandbox_config,
    sandbox: *mut *mut vmm_sandbox,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            pass::fill(sandbox, "sandbox", std::ptr::null_mut())?;
            let config = pass::object(config, "config")?;
            let built = config.0.use_up(USED, Description::build)?;
            pass::fill(sandbox, "sandbox", pass::give(vmm_sandbox::new(built)))
        })
    }
}
