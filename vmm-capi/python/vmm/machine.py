"""Machines."""

from __future__ import annotations

import asyncio
import os
import select
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from .console import Console
from .device import Device
from .disk import Disk
from .error import Error, call
from .library import close_at_exit, ffi, lib, path, text
from .outcome import Outcome, State
from .virtio import VirtioDevice

PathName = Union[str, bytes, "os.PathLike[str]"]


@dataclass(frozen=True)
class Linux:
    """Boots a Linux kernel: a bzImage or vmlinux."""

    kernel: PathName
    initrd: Optional[PathName] = None
    cmdline: Optional[str] = None

    def _boot(self, config: Any) -> None:
        initrd = ffi.NULL if self.initrd is None else path(self.initrd)
        lib.vmm_config_boot_linux(config, path(self.kernel), initrd, _line(self.cmdline))


@dataclass(frozen=True)
class Pvh:
    """Boots a kernel that can be entered by PVH."""

    kernel: PathName
    initrd: Optional[PathName] = None
    cmdline: Optional[str] = None

    def _boot(self, config: Any) -> None:
        initrd = ffi.NULL if self.initrd is None else path(self.initrd)
        lib.vmm_config_boot_pvh(config, path(self.kernel), initrd, _line(self.cmdline))


@dataclass(frozen=True)
class Multiboot:
    """Boots a kernel by Multiboot 1. A module is a file, and a command line of its own or None."""

    kernel: PathName
    cmdline: Optional[str] = None
    modules: Sequence[Tuple[PathName, Optional[str]]] = ()

    def _boot(self, config: Any) -> None:
        lib.vmm_config_boot_multiboot(config, path(self.kernel), _line(self.cmdline))
        for file, cmdline in self.modules:
            lib.vmm_config_add_module(config, path(file), _line(cmdline))


@dataclass(frozen=True)
class Elf64:
    """Boots a plain 64-bit ELF program without a kernel."""

    program: PathName
    cmdline: Optional[str] = None

    def _boot(self, config: Any) -> None:
        lib.vmm_config_boot_elf64(config, path(self.program), _line(self.cmdline))


@dataclass(frozen=True)
class LongMode:
    """Boots instructions as they are, in 64-bit mode, at 0x10000."""

    image: bytes

    def _boot(self, config: Any) -> None:
        lib.vmm_config_boot_long_mode(config, self.image, len(self.image))


@dataclass(frozen=True)
class RealMode:
    """Boots instructions as they are, in 16-bit real mode, at 0x7c00."""

    image: bytes

    def _boot(self, config: Any) -> None:
        lib.vmm_config_boot_real_mode(config, self.image, len(self.image))


@dataclass(frozen=True)
class Exits:
    """How often a guest was left, for a reason or a device."""

    name: str
    is_device: bool
    exits: int
    #: How long the host worked on them, if that is measured.
    seconds: float


@dataclass(frozen=True)
class Traffic:
    """What has passed between a virtio device and its driver."""

    #: The device's name.
    name: str
    #: How often the driver rang.
    notifications: int
    #: How often the device interrupted.
    interrupts: int
    #: Chains of buffers that the device took.
    requests: int
    #: Bytes in those of their buffers that the device reads.
    read_bytes: int
    #: Bytes that the device told the driver it has written.
    written_bytes: int
    #: Chains that failed, and mistakes of the driver's that stopped the device.
    errors: int


class Machine:
    """A virtual machine; also a context manager, which frees it.

    `memory` is in bytes, a multiple of 4096; `boot` is what it runs. `backend` is "kvm", "soft" for the
    CPU in software, or "auto" for the best of this host. Without `interrupts` there are no interrupt
    controllers, and HLT ends a run. `serial` is a pair of descriptors, input and output, either of
    which may be None. `rtc` is a PC's clock, `i8042` what kernels reset it by, `rng` a source of random
    numbers; a byte written to I/O port 0xf4 powers it off with that code if there is `debug_exit`. With
    `accounting`, "counts" or "times", `exits` tells how often the guest was left and `traffic` what
    virtio devices did.

    Any thread may use it, several at once.

    >>> machine = Machine(memory=1 << 20, boot=LongMode(b"\\xf4"), interrupts=False)
    >>> print(machine.run())
    halted
    """

    def __init__(
        self,
        *,
        memory: int,
        boot: Union[Linux, Pvh, Multiboot, Elf64, LongMode, RealMode],
        vcpus: int = 1,
        backend: str = "auto",
        interrupts: bool = True,
        serial: Optional[Tuple[Optional[int], Optional[int]]] = None,
        rtc: bool = False,
        i8042: bool = False,
        debug_exit: bool = False,
        rng: bool = False,
        disks: Sequence[Disk] = (),
        consoles: Sequence[Console] = (),
        devices: Sequence[Union[Device, VirtioDevice]] = (),
        accounting: Optional[str] = None,
    ) -> None:
        config = ffi.gc(lib.vmm_config_new(), lib.vmm_config_free)
        lib.vmm_config_set_backend(config, backend.encode())
        lib.vmm_config_set_memory(config, memory)
        lib.vmm_config_set_vcpus(config, vcpus)
        lib.vmm_config_set_interrupts(config, interrupts)
        boot._boot(config)
        if serial is not None:
            lib.vmm_config_add_serial(config, *(-1 if fd is None else fd for fd in serial))
        for wanted, add in (
            (rtc, lib.vmm_config_add_rtc),
            (i8042, lib.vmm_config_add_i8042),
            (debug_exit, lib.vmm_config_add_debug_exit),
        ):
            if wanted:
                add(config)
        if rng:
            lib.vmm_config_add_rng(config, 0, 0)
        if accounting is not None:
            if accounting not in ("counts", "times"):
                raise ValueError(f"accounting: {accounting!r}")
            lib.vmm_config_set_accounting(config, accounting == "times")
        self._devices = tuple(devices)
        for added in (*disks, *consoles, *devices):
            added._add(config)
        made = ffi.new("vmm_machine **")
        call(lib.vmm_machine_new, config, made)
        self._machine = ffi.gc(made[0], lib.vmm_machine_free)
        self._handle = ffi.gc(lib.vmm_machine_handle(self._machine), lib.vmm_handle_free)
        close_at_exit(self)

    _machine: Any = ffi.NULL
    _devices: Tuple[Union[Device, VirtioDevice], ...] = ()
    #: It is paused because a run was interrupted.
    _interrupted = False

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the machine and frees it; every later call fails."""
        machine, self._machine = self._machine, ffi.NULL
        if machine:
            ffi.release(machine)
        for device in self._devices:
            device._close()

    @property
    def backend(self) -> str:
        """The back end that runs it, and why that one."""
        name, why = lib.vmm_machine_backend, lib.vmm_machine_backend_reason
        return f"{text(name(self._machine))} ({text(why(self._machine))})"

    def run(self) -> Outcome:
        """Runs the guest until it ends. Python's signal handlers run meanwhile; what they raise, as
        Ctrl-C raises KeyboardInterrupt, pauses it, and a further run goes on.
        """
        try:
            # A signal may come as soon as it runs.
            if self._interrupted:
                self.resume()
                self._interrupted = False
            else:
                self.start()
            while True:
                select.select([self._event_fd()], [], [])
                outcome = self.poll()
                if outcome is not None:
                    return outcome
        except BaseException as raised:
            # A run that cannot begin may be somebody else's.
            if not isinstance(raised, Error) and self.state is State.RUNNING:
                self.pause()
                self._interrupted = True
            raise

    def start(self) -> None:
        """Runs the guest on a thread of its own; `wait` tells what becomes of it."""
        call(lib.vmm_machine_start, self._machine)

    async def wait(self) -> Outcome:
        """Waits until a machine that was started ends. A task that is cancelled stops it.

        >>> async def both():
        ...     machines = [Machine(memory=1 << 20, boot=LongMode(b"\\xf4"), interrupts=False) for _ in "ab"]
        ...     for machine in machines:
        ...         machine.start()
        ...     return await asyncio.gather(*(machine.wait() for machine in machines))
        >>> [str(outcome) for outcome in asyncio.run(both())]
        ['halted', 'halted']
        """
        loop = asyncio.get_running_loop()
        fd = self._event_fd()
        while True:
            ready = asyncio.Event()
            loop.add_reader(fd, ready.set)
            try:
                await ready.wait()
            except asyncio.CancelledError:
                self.stop()
                raise
            finally:
                loop.remove_reader(fd)
            outcome = self.poll()
            if outcome is not None:
                return outcome

    def poll(self) -> Optional[Outcome]:
        """How a run ended since the last time, if one did. Never waits."""
        event, outcome = ffi.new("vmm_event *"), ffi.new("vmm_outcome *")
        self._call(lib.vmm_machine_next_event, self._machine, event, outcome)
        return Outcome.of(outcome) if event[0] == lib.VMM_EVENT_ENDED else None

    def _event_fd(self) -> int:
        fd = ffi.new("int32_t *")
        call(lib.vmm_machine_event_fd, self._machine, fd)
        return fd[0]

    def stop(self) -> None:
        """Ends the machine, from any thread or a device."""
        call(lib.vmm_handle_stop, self._handle)

    @property
    def state(self) -> State:
        """What the machine is doing now."""
        now = ffi.new("vmm_machine_state *")
        call(lib.vmm_handle_state, self._handle, now)
        return State(now[0])

    def pause(self, within: float = 10.0) -> None:
        """Pauses the machine: when this returns nothing of it runs, until `resume`. A device that
        keeps its thread for longer than `within` seconds makes it fail.
        """
        call(lib.vmm_handle_pause, self._handle, int(within * 1e9))

    def resume(self) -> None:
        """Lets a paused machine go on."""
        call(lib.vmm_handle_resume, self._handle)

    def reset(self) -> None:
        """Puts a machine that is not being run back to power-on."""
        call(lib.vmm_machine_reset, self._machine)

    def save(self) -> bytes:
        """What the machine is now: devices, interrupt controllers, clock, vCPUs; everything but its
        memory, which is the caller's to copy (`read`) before it goes on. It is paused, or not being
        run. `Unsupported` names a device that cannot be saved.
        """
        made = ffi.new("vmm_saved **")
        self._call(lib.vmm_machine_save, self._machine, made)
        saved = ffi.gc(made[0], lib.vmm_saved_free)
        return bytes(ffi.buffer(lib.vmm_saved_data(saved), lib.vmm_saved_size(saved)))

    def restore(self, saved: bytes) -> None:
        """Makes it what another machine of the same description was when it was saved, perhaps in
        another process. Its memory has been written already (`write`); it goes on when it is run, or
        resumed. After `Incompatible`, `NotFound` or `SnapshotError` it is of no use any more.

        >>> def described():
        ...     return Machine(memory=1 << 20, boot=LongMode(b"\\xf4\\xf4"), interrupts=False)
        >>> first, second = described(), described()
        >>> print(first.run())
        halted
        >>> second.write(0, first.read(0, 1 << 20))
        >>> second.restore(first.save())
        >>> hex(second.registers()["rip"])
        '0x10001'
        """
        self._call(lib.vmm_machine_restore, self._machine, saved, len(saved))

    def read(self, at: int, size: int) -> bytes:
        """Copies guest memory."""
        data = ffi.new("uint8_t[]", size)
        call(lib.vmm_machine_read, self._machine, at, data, size)
        return bytes(ffi.buffer(data, size))

    def write(self, at: int, data: "bytes | bytearray | memoryview") -> None:
        """Writes guest memory, all or nothing."""
        call(lib.vmm_machine_write, self._machine, at, ffi.from_buffer(data), len(data))

    def view(self, at: int, size: int) -> memoryview:
        """Guest memory without a copy, to be read; the guest may change it at any moment. It stays
        when the machine is freed.
        """
        made = ffi.new("vmm_view **")
        call(lib.vmm_machine_view, self._machine, at, size, made)
        view = ffi.gc(made[0], lib.vmm_view_free)
        chars = ffi.cast(f"uint8_t(*)[{size}]", lib.vmm_view_data(view))
        return memoryview(ffi.buffer(_keeping(chars, view))).toreadonly()

    def registers(self, vcpu: int = 0) -> Dict[str, int]:
        """The general-purpose registers of a vCPU, of a machine that is paused or not being run.

        >>> machine = Machine(memory=1 << 20, boot=LongMode(b"\\xf4"), interrupts=False)
        >>> hex(machine.registers()["rip"])
        '0x10000'
        """
        regs = ffi.new("vmm_regs *")
        call(lib.vmm_machine_get_regs, self._machine, vcpu, regs)
        return {name: getattr(regs, name) for name, _ in ffi.typeof("vmm_regs").fields}

    def set_registers(self, vcpu: int = 0, **values: int) -> None:
        """Changes some of them."""
        known = self.registers(vcpu)
        for name in values:
            if name not in known:
                raise AttributeError(f"no register {name}")
        regs = ffi.new("vmm_regs *", {**known, **values})
        call(lib.vmm_machine_set_regs, self._machine, vcpu, regs)

    def exits(self) -> List[Exits]:
        """How often the guest was left until now, by reason and by device, if there is `accounting`.

        >>> machine = Machine(
        ...     memory=1 << 20, boot=LongMode(b"\\xe6\\x80\\xf4"), interrupts=False, accounting="counts")
        >>> print(machine.run())
        halted
        >>> [(count.name, count.exits) for count in machine.exits()]
        [('port out', 1), ('return', 1)]
        """
        made = ffi.new("vmm_exits **")
        call(lib.vmm_machine_exits, self._machine, made)
        exits = ffi.gc(made[0], lib.vmm_exits_free)
        counts = (lib.vmm_exits_at(exits, n) for n in range(lib.vmm_exits_size(exits)))
        return [
            Exits(text(count.name), count.is_device, count.exits, count.ns / 1e9)
            for count in counts
        ]

    def traffic(self) -> List[Traffic]:
        """What has passed between each virtio device and its driver, if there is `accounting`."""
        made = ffi.new("vmm_exits **")
        call(lib.vmm_machine_exits, self._machine, made)
        exits = ffi.gc(made[0], lib.vmm_exits_free)
        count = lib.vmm_exits_traffic_size(exits)
        return [_traffic(lib.vmm_exits_traffic_at(exits, n)) for n in range(count)]

    def _call(self, function: Any, *arguments: Any) -> None:
        """What a device raised is raised instead of what it led to."""
        try:
            call(function, *arguments)
        except Exception as error:
            for device in self._devices:
                failed, device._failed = device._failed, None
                if failed is not None:
                    raise failed from error
            raise


def _traffic(of: Any) -> Traffic:
    _, *counts = (name for name, _ in ffi.typeof("vmm_traffic").fields)
    return Traffic(text(of.name), *(getattr(of, name) for name in counts))


def _line(cmdline: Optional[str]) -> Any:
    return ffi.NULL if cmdline is None else cmdline.encode()


def _keeping(pointer: Any, owner: Any) -> Any:
    """The same pointer, which keeps `owner` as long as it is kept."""
    return ffi.gc(pointer, lambda _: owner)
