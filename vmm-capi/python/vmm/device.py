"""Devices of one's own."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

from .error import call
from .library import Kept, ffi, lib


class PowerOff(Exception):
    """Raised by a device: the machine powers off with this code, 0 to 255."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(code)
        self.code = code


class Reset(Exception):
    """Raised by a device: the machine resets."""


class Device:
    """A device: a subclass says what it answers and gives it to a `Machine`.

    Its methods are called on the threads that run vCPUs. What they raise ends the run and is raised
    there; `PowerOff` and `Reset` end it well.

    >>> class Counter(Device):
    ...     ports = [(0x50, 1)]
    ...     value = 0
    ...     def read(self, window, offset, size):
    ...         self.value += 1
    ...         return self.value
    ...     def write(self, window, offset, size, value):
    ...         raise PowerOff(value)
    """

    #: What errors call it.
    name: str = "device"
    #: I/O ports: first port and count. Windows are counted in this order, then those of `mmio`.
    ports: List[Tuple[int, int]] = []
    #: Physical addresses: start, None for where there is room, and size in bytes.
    mmio: List[Tuple[Optional[int], int]] = []
    #: Whether it has an interrupt line.
    irq: bool = False

    _made: Any = None
    _failed: Optional[BaseException] = None

    def read(self, window: int, offset: int, size: int) -> int:
        """What the guest reads: `size` is 1 to 8 bytes."""
        return 2 ** (8 * size) - 1

    def write(self, window: int, offset: int, size: int, value: int) -> None:
        """The guest writes."""

    def reset(self) -> None:
        """Back to power-on."""

    def save(self) -> bytes:
        """For `Machine.save`: what a device like this one needs to go on where this one stands. One
        that does not say cannot be saved.
        """
        raise NotImplementedError

    def restore(self, state: bytes) -> None:
        """For `Machine.restore`, after `reset`: becomes what was saved, which is not to be trusted."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Interrupts the guest once, by the device's line; from any thread."""
        call(lib.vmm_device_interrupt, self._made or ffi.NULL)

    def _add(self, config: Any) -> None:
        lib.vmm_config_add_device(config, self._make())

    def _close(self) -> None:
        # C keeps the device, which keeps what C has of it.
        self._made = None

    def _make(self) -> Any:
        made = ffi.new("vmm_device **")
        user = Kept.keep(self)
        try:
            call(lib.vmm_device_new, self.name.encode(), _OPS, user, made)
        except BaseException:
            Kept.drop(user)
            raise
        device = ffi.gc(made[0], lib.vmm_device_free)
        for first, count in self.ports:
            call(lib.vmm_device_add_ports, device, first, count)
        for start, size in self.mmio:
            start = lib.VMM_ANYWHERE if start is None else start
            call(lib.vmm_device_add_mmio, device, start, size)
        if self.irq:
            call(lib.vmm_device_add_irq, device)
        self._made = device
        return device

    def _answer(self, raised: BaseException) -> int:
        if isinstance(raised, PowerOff) and 0 <= raised.code <= 255:
            return lib.VMM_FLOW_POWER_OFF + raised.code
        if isinstance(raised, Reset):
            return lib.VMM_FLOW_RESET
        self._failed = raised
        return lib.VMM_FLOW_FAIL


@ffi.callback("int32_t(void *, uint32_t, uint64_t, uint8_t *, size_t)", error=2)
def _read(user: Any, window: int, offset: int, data: Any, size: int) -> int:
    device = ffi.from_handle(user)
    try:
        value = int(device.read(window, offset, size))
        ffi.buffer(data, size)[:] = value.to_bytes(size, "little")
        return lib.VMM_FLOW_CONTINUE
    except BaseException as raised:
        return device._answer(raised)


@ffi.callback("int32_t(void *, uint32_t, uint64_t, uint8_t *, size_t)", error=2)
def _write(user: Any, window: int, offset: int, data: Any, size: int) -> int:
    device = ffi.from_handle(user)
    try:
        device.write(window, offset, size, int.from_bytes(ffi.buffer(data, size)[:], "little"))
        return lib.VMM_FLOW_CONTINUE
    except BaseException as raised:
        return device._answer(raised)


@ffi.callback("void(void *)")
def _reset(user: Any) -> None:
    device = ffi.from_handle(user)
    try:
        device.reset()
    except BaseException as raised:
        device._failed = raised


@ffi.callback("int32_t(void *, vmm_result *)", error=1)
def _save(user: Any, state: Any) -> int:
    device = ffi.from_handle(user)
    try:
        data = bytes(device.save())
        lib.vmm_result_bytes(state, data, len(data))
        return 0
    except NotImplementedError:
        return 1
    except BaseException as raised:
        device._failed = raised
        return 1


@ffi.callback("int32_t(void *, const uint8_t *, size_t)", error=1)
def _restore(user: Any, state: Any, size: int) -> int:
    device = ffi.from_handle(user)
    try:
        device.restore(bytes(ffi.buffer(state, size)))
        return 0
    except NotImplementedError:
        return 1
    except BaseException as raised:
        device._failed = raised
        return 1


_OPS = ffi.new(
    "vmm_device_ops *",
    {
        "struct_size": ffi.sizeof("vmm_device_ops"),
        "read": _read,
        "write": ffi.cast(
            "int32_t(*)(void *, uint32_t, uint64_t, const uint8_t *, size_t)", _write
        ),
        "reset": _reset,
        "drop": Kept.drop,
        "save": _save,
        "restore": _restore,
    },
)
