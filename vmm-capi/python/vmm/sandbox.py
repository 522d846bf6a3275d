"""Sandboxes."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from .error import call
from .library import Kept, ffi, lib, nanoseconds, path, text
from .obstacle import Obstacle, in_the_way
from .outcome import Outcome
from .vm_cache import VmCache

PathName = Union[str, bytes, "os.PathLike[str]"]
#: What passes to functions of a program.
Argument = Union[bool, int, float, str, bytes, bytearray]
#: What functions of the host take and give.
Value = Union[None, int, float, bytes]
#: Directories of the host: (directory, where the program finds it, whether it may write).
Mounts = Sequence[Tuple[PathName, str, bool]]


class int32:
    """Passed as `returns=int32`: the function gives an `int` of 32 bits."""


_RETURNS: "Dict[Any, int]" = {
    None: lib.VMM_KIND_NOTHING,
    bool: lib.VMM_KIND_BOOL,
    bytes: lib.VMM_KIND_TEXT,
    float: lib.VMM_KIND_DOUBLE,
    int: lib.VMM_KIND_INT64,
    int32: lib.VMM_KIND_INT32,
    str: lib.VMM_KIND_TEXT,
}


class _Raised(threading.local):
    """What was raised in a callback on this thread, which runs a sandbox."""

    error: Optional[BaseException] = None

    def take(self) -> Optional[BaseException]:
        error, self.error = self.error, None
        return error


_raised = _Raised()


@dataclass(frozen=True)
class SandboxStatistics:
    """What a program has used and asked for."""

    #: Bytes of memory in use, page tables included.
    memory: int
    #: How many were answered.
    system_calls: int
    #: Those that are not known here, by name.
    unknown_calls: Dict[str, int]


class Sandbox:
    """A static Linux program in a micro-VM without a kernel; also a context manager, which frees it.

    `program` is a path, or the executable itself as bytes. `timeout` and `cpu_time` are seconds, of
    one start or call. `mounts` are directories of the host: (directory, where the program finds it,
    whether it may write). `stdin` is what the program reads, or a descriptor; `stdout` and `stderr`
    are descriptors, None for what `take_stdout` and `take_stderr` give. `functions` can be called by
    the program (vmm_call of vmm_guest.h) with None, int, float or bytes; what one raises ends the
    program soon (it gets EINVAL meanwhile) and is raised by the start or call. One thread uses a sandbox at a time.
    """

    def __init__(
        self,
        program: Union[PathName, bytearray, memoryview],
        *,
        args: Optional[Sequence[Union[str, bytes]]] = None,
        env: Optional[Mapping[str, str]] = None,
        backend: str = "auto",
        memory: Optional[int] = None,
        timeout: Optional[float] = None,
        cpu_time: Optional[float] = None,
        output_limit: Optional[int] = None,
        file_limit: Optional[int] = None,
        stdin: Union[bytes, int] = b"",
        stdout: Optional[int] = None,
        stderr: Optional[int] = None,
        mounts: Mounts = (),
        user: Optional[Tuple[int, int]] = None,
        functions: "Optional[Mapping[str, Callable[..., Any]]]" = None,
        vm_cache: Optional[VmCache] = None,
    ) -> None:
        if isinstance(program, (bytearray, memoryview)):
            made = lib.vmm_sandbox_config_image(ffi.from_buffer(program), len(program))
        else:
            made = lib.vmm_sandbox_config_program(path(program))
        config = ffi.gc(made, lib.vmm_sandbox_config_free)
        for argument in args or ():
            lib.vmm_sandbox_config_add_arg(config, os.fsencode(argument))
        for name, value in (env or {}).items():
            lib.vmm_sandbox_config_add_env(config, os.fsencode(name), os.fsencode(value))
        if user is not None:
            lib.vmm_sandbox_config_set_user(config, *user)
        _allow(config, backend, memory, file_limit, mounts)
        _limit(config, timeout, cpu_time, output_limit)
        _connect(config, stdin, stdout, stderr)
        _offer(config, functions or {})
        if vm_cache is not None:
            lib.vmm_sandbox_config_set_vm_cache(config, vm_cache._cache)
        self._of(_made(config))

    @classmethod
    def saved(
        cls,
        path: PathName,
        *,
        backend: str = "auto",
        memory: Optional[int] = None,
        timeout: Optional[float] = None,
        cpu_time: Optional[float] = None,
        output_limit: Optional[int] = None,
        file_limit: Optional[int] = None,
        stdin: Union[bytes, int] = b"",
        stdout: Optional[int] = None,
        stderr: Optional[int] = None,
        mounts: Mounts = (),
        functions: "Optional[Mapping[str, Callable[..., Any]]]" = None,
        baseline_only: bool = False,
        vm_cache: Optional[VmCache] = None,
    ) -> Sandbox:
        """A sandbox that goes on where the snapshot in this file (`Snapshot.save`) stood.

        It is given again what is not in the file: limits, functions, streams, directories;
        `Snapshot.check` says what is missing. With `baseline_only` the caller knows that the program
        uses no instruction beyond the first x86-64 processors' (SSE2), whatever it was shown.

        `SnapshotError` names the section of a file that was changed, cut, or is larger than allowed;
        `Incompatible` names all that stands in the way.
        """
        config = _saved(path, baseline_only)
        _allow(config, backend, memory, file_limit, mounts)
        _limit(config, timeout, cpu_time, output_limit)
        _connect(config, stdin, stdout, stderr)
        _offer(config, functions or {})
        if vm_cache is not None:
            lib.vmm_sandbox_config_set_vm_cache(config, vm_cache._cache)
        sandbox = cls.__new__(cls)
        sandbox._of(_made(config))
        return sandbox

    def _of(self, sandbox: Any) -> None:
        self._sandbox = ffi.gc(sandbox, lib.vmm_sandbox_free)
        self._canceller = ffi.gc(lib.vmm_sandbox_canceller(sandbox), lib.vmm_canceller_free)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the sandbox; every later call fails."""
        sandbox, self._sandbox = self._sandbox, ffi.NULL
        if sandbox:
            ffi.release(sandbox)

    def start(self) -> Outcome:
        """Runs the program from its start to its end, or to where it is ready to be called."""
        outcome = ffi.new("vmm_outcome *")
        self._call(lib.vmm_sandbox_start, self._sandbox, outcome)
        return Outcome.of(outcome)

    def call(self, name: str, *arguments: Argument, returns: Any = int, size: int = 65536) -> Any:
        """Calls a global function of the program, which must have said that it is ready.

        An int is passed as 64 bits, bool as bool, float as double, str as `const char *`, bytes as
        `const void *` and `size_t`, bytearray as `void *` and `size_t`, with what the function leaves
        there. `returns` is None, int, int32, bool, float, or str or bytes for a `char *` of at most
        `size` bytes.
        """
        if returns not in _RETURNS:
            raise TypeError(f"returns: {returns!r}")
        given = ffi.new("vmm_value[]", len(arguments) or 1)
        kept = [_pass(given[n], argument) for n, argument in enumerate(arguments)]
        result = ffi.new("vmm_value *", {"kind": _RETURNS[returns]})
        space = None
        if returns in (str, bytes):
            space = ffi.new("char[]", size + 1)
            result.data, result.size = space, size + 1
        self._call(
            lib.vmm_sandbox_call, self._sandbox, name.encode(), given, len(arguments), result
        )
        del kept  # Not before.
        if returns is None:
            return None
        if returns is float:
            return result.number
        if space is None:
            return bool(result.integer) if returns is bool else result.integer
        if result.size > size:
            raise ValueError(f"{name} gives {result.size} bytes, more than {size}")
        data = bytes(ffi.buffer(space, result.size))
        return data.decode() if returns is str else data

    def cancel(self) -> None:
        """Stops the program in the middle of what it does; from any thread."""
        lib.vmm_canceller_cancel(self._canceller)

    def take_stdout(self) -> bytes:
        """Takes what the program has written to standard output, if that is captured."""
        return self._take(lib.vmm_sandbox_take_stdout)

    def take_stderr(self) -> bytes:
        """The same of standard error."""
        return self._take(lib.vmm_sandbox_take_stderr)

    def statistics(self) -> SandboxStatistics:
        """What the program has used and asked for so far."""
        now = ffi.new("vmm_sandbox_statistics *", {"struct_size": ffi.sizeof("vmm_sandbox_statistics")})
        call(lib.vmm_sandbox_get_statistics, self._sandbox, now)
        size = lib.vmm_sandbox_unknown_calls(self._sandbox, ffi.NULL, 0) + 1
        lines = ffi.new("char[]", size)
        lib.vmm_sandbox_unknown_calls(self._sandbox, lines, size)
        calls = (line.split() for line in text(lines).splitlines())
        return SandboxStatistics(
            now.memory, now.system_calls, {name: int(count) for name, count in calls}
        )

    def snapshot(self) -> Snapshot:
        """Keeps what the sandbox is now."""
        made = ffi.new("vmm_snapshot **")
        call(lib.vmm_sandbox_snapshot, self._sandbox, made)
        return Snapshot(made[0])

    def reset(self, to: Snapshot) -> None:
        """Puts the sandbox back to a snapshot, whatever has become of its program since."""
        call(lib.vmm_sandbox_reset, self._sandbox, to._snapshot)

    def _take(self, take: Any) -> bytes:
        parts: List[bytes] = []
        data = ffi.new("uint8_t[]", 65536)
        while True:
            count = take(self._sandbox, data, len(data))
            if count == 0:
                return b"".join(parts)
            parts.append(bytes(ffi.buffer(data, count)))

    def _call(self, function: Any, *arguments: Any) -> None:
        """What a callback raised is raised instead of what it led to."""
        _raised.take()
        try:
            call(function, *arguments)
        except Exception as error:
            raised = _raised.take()
            if raised is not None:
                raise raised from error
            raise
        raised = _raised.take()
        if raised is not None:
            raise raised


class Snapshot:
    """A sandbox as it was at one moment."""

    def __init__(self, snapshot: Any) -> None:
        self._snapshot = ffi.gc(snapshot, lib.vmm_snapshot_free)

    def fork(self) -> Sandbox:
        """Another sandbox that goes on from here and shares its memory until it writes."""
        made = ffi.new("vmm_sandbox **")
        call(lib.vmm_snapshot_fork, self._snapshot, made)
        sandbox = Sandbox.__new__(Sandbox)
        sandbox._of(made[0])
        return sandbox

    def save(self, path: PathName) -> None:
        """Writes it to a file, for `Sandbox.saved` and `Snapshot.open`, in another process or on another
        host. The file appears whole or not at all, and is readable for its owner only: it has all that
        the program has in memory.
        """
        call(lib.vmm_snapshot_save, self._snapshot, os.fsencode(path))

    @classmethod
    def open(cls, path: PathName) -> Snapshot:
        """Opens a file of `save`, for a program that needs no functions, directories or limits but
        those that `Sandbox.saved` gives unless told otherwise.
        """
        made = ffi.new("vmm_snapshot **")
        call(lib.vmm_snapshot_open, os.fsencode(path), made)
        return cls(made[0])

    @staticmethod
    def check(
        path: PathName,
        *,
        backend: str = "auto",
        memory: Optional[int] = None,
        file_limit: Optional[int] = None,
        mounts: Mounts = (),
        functions: Iterable[str] = (),
        baseline_only: bool = False,
    ) -> List[Obstacle]:
        """What stands in the way of `Sandbox.saved` here, if it is given this; `functions` are names."""
        config = _saved(path, baseline_only)
        _allow(config, backend, memory, file_limit, mounts)
        for name in functions:
            # Never called: the description makes no sandbox.
            lib.vmm_sandbox_config_add_host_fn(
                config, name.encode(), _host_function, ffi.NULL, ffi.NULL
            )
        return in_the_way(config)


def _saved(path: PathName, baseline_only: bool) -> Any:
    """The description of a sandbox that goes on from a file."""
    made = lib.vmm_sandbox_config_saved(os.fsencode(path))
    config = ffi.gc(made, lib.vmm_sandbox_config_free)
    if baseline_only:
        lib.vmm_sandbox_config_set_baseline_only(config)
    return config


def _allow(
    config: Any, backend: str, memory: Optional[int], file_limit: Optional[int], mounts: Mounts
) -> None:
    """What runs it, what it may take, and what it may see of the host."""
    lib.vmm_sandbox_config_set_backend(config, backend.encode())
    if memory is not None:
        lib.vmm_sandbox_config_set_memory(config, memory)
    if file_limit is not None:
        lib.vmm_sandbox_config_set_file_limit(config, file_limit)
    for directory, at, writable in mounts:
        lib.vmm_sandbox_config_add_mount(config, path(directory), os.fsencode(at), writable)


def _limit(
    config: Any, timeout: Optional[float], cpu_time: Optional[float], output: Optional[int]
) -> None:
    lib.vmm_sandbox_config_set_timeout(config, nanoseconds(timeout))
    lib.vmm_sandbox_config_set_cpu_time(config, nanoseconds(cpu_time))
    if output is not None:
        lib.vmm_sandbox_config_set_output_limit(config, output)


def _connect(
    config: Any, stdin: Union[bytes, int], stdout: Optional[int], stderr: Optional[int]
) -> None:
    if isinstance(stdin, bytes):
        lib.vmm_sandbox_config_set_stdin(config, stdin, len(stdin))
    streams = (stdin if isinstance(stdin, int) else None, stdout, stderr)
    lib.vmm_sandbox_config_set_stdio(config, *(-1 if fd is None else fd for fd in streams))


def _offer(config: Any, functions: "Mapping[str, Callable[..., Any]]") -> None:
    """The functions that it can call, and Python's signal handlers."""
    for name, function in functions.items():
        kept = Kept.keep(function)
        lib.vmm_sandbox_config_add_host_fn(config, name.encode(), _host_function, kept, Kept.drop)
    lib.vmm_sandbox_config_set_interruptible(config, _ask, ffi.NULL, ffi.NULL)


def _made(config: Any) -> Any:
    made = ffi.new("vmm_sandbox **")
    call(lib.vmm_sandbox_new, config, made)
    return made[0]


def _pass(value: Any, argument: Argument) -> Any:
    """Fills a `vmm_value`; gives what must be kept as long as it is used."""
    if isinstance(argument, bool):
        value.kind, value.integer = lib.VMM_KIND_BOOL, argument
        return None
    if isinstance(argument, int):
        # Unsigned ones of 64 bits are the same bits.
        signed = argument - 2**64 if argument >= 2**63 else argument
        value.kind, value.integer = lib.VMM_KIND_INT64, signed
        return None
    if isinstance(argument, float):
        value.kind, value.number = lib.VMM_KIND_DOUBLE, argument
        return None
    if isinstance(argument, str):
        if "\0" in argument:
            raise ValueError("a text with NUL")
        data = ffi.new("char[]", argument.encode())
        value.kind, value.data = lib.VMM_KIND_TEXT, data
        return data
    if isinstance(argument, (bytes, bytearray)):
        data = ffi.from_buffer(argument)
        writable = isinstance(argument, bytearray)
        value.kind = lib.VMM_KIND_BUFFER if writable else lib.VMM_KIND_BYTES
        value.data, value.size = data, len(argument)
        return data
    raise TypeError(f"an argument of {type(argument).__name__}")


def _seen(value: Any) -> Value:
    if value.kind == lib.VMM_KIND_INT64:
        return value.integer
    if value.kind == lib.VMM_KIND_DOUBLE:
        return value.number
    if value.kind == lib.VMM_KIND_BYTES:
        return bytes(ffi.buffer(value.data, value.size))
    return None


def _give(result: Any, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, int):
        lib.vmm_result_int64(result, value)
    elif isinstance(value, float):
        lib.vmm_result_double(result, value)
    else:
        data = value.encode() if isinstance(value, str) else bytes(value)
        lib.vmm_result_bytes(result, data, len(data))


@ffi.callback("int32_t(void *, const vmm_value *, size_t, vmm_result *)", error=1)
def _host_function(user: Any, arguments: Any, count: int, result: Any) -> int:
    try:
        _give(result, ffi.from_handle(user)(*(_seen(arguments[n]) for n in range(count))))
        return 0
    except BaseException as error:
        # The next question whether to go on ends the program, if it does not end before.
        _raised.error = error
        return 1


def _keep(_: Any, error: Any, __: Any) -> None:
    _raised.error = error


# Python's signal handlers run as it is called; what they raise ends the program.
@ffi.callback("int32_t(void *)", error=1, onerror=_keep)
def _ask(_: Any) -> int:
    return 0 if _raised.error is None else 1
