"""Virtio devices of one's own."""

from __future__ import annotations

from typing import Any, List, Optional

from .error import call
from .library import Kept, ffi, lib


class Chain:
    """Buffers that the driver lends the device: some to be read, some to be written. Any thread may
    complete it; one that is forgotten goes back with nothing written.
    """

    def __init__(self, chain: Any) -> None:
        self._chain = ffi.gc(chain, lib.vmm_chain_free)
        self._written = 0

    @property
    def readable(self) -> int:
        """How many bytes there are to be read."""
        return int(lib.vmm_chain_readable(self._chain))

    @property
    def writable(self) -> int:
        """How many bytes there are to be written."""
        return int(lib.vmm_chain_writable(self._chain))

    def read(self, at: int = 0, size: Optional[int] = None) -> bytes:
        """Copies what is to be read, from `at` on: all of it, or up to `size` bytes."""
        left = max(0, self.readable - at)
        data = ffi.new("uint8_t[]", left if size is None else min(size, left))
        return bytes(ffi.buffer(data, lib.vmm_chain_read(self._chain, at, data, len(data))))

    def write(self, data: "bytes | bytearray | memoryview", at: Optional[int] = None) -> int:
        """Writes behind what was written before, or at `at`; gives for how much there was room."""
        at = self._written if at is None else at
        wrote = int(lib.vmm_chain_write(self._chain, at, ffi.from_buffer(data), len(data)))
        self._written = max(self._written, at + wrote)
        return wrote

    def complete(self) -> None:
        """Gives it back to the driver, with what was written."""
        chain, self._chain = self._chain, ffi.NULL
        if chain:
            ffi.gc(chain, None)
            lib.vmm_chain_complete(chain, self._written)

    def fail(self) -> None:
        """As `complete`, of a request that the device could not do as it was asked: it counts as an
        error in `Machine.traffic`. The driver is told by what was written.
        """
        chain, self._chain = self._chain, ffi.NULL
        if chain:
            ffi.gc(chain, None)
            lib.vmm_chain_fail(chain, self._written)


class Io:
    """What a device is lent while it is woken; of use only to `VirtioDevice.wake`."""

    def __init__(self, io: Any) -> None:
        self._io = io

    def pop(self, queue: int = 0) -> Optional[Chain]:
        """The next chain that the driver has added to a queue, if there is one."""
        chain = lib.vmm_io_pop(self._io, queue)
        return Chain(chain) if chain else None

    @property
    def features(self) -> int:
        """The features that were negotiated."""
        return int(lib.vmm_io_features(self._io))

    def config_changed(self) -> None:
        """Tells the driver that configuration space has changed."""
        lib.vmm_io_config_changed(self._io)

    def need_reset(self, why: str) -> None:
        """The driver has done what no driver may: nothing more is done for it until it resets the
        device.
        """
        lib.vmm_io_need_reset(self._io, why.encode())


class VirtioDevice:
    """A virtio device: a subclass says what it is and gives it to a `Machine`.

    Its methods are called one at a time, on threads of the machine, and must not wait. What `wake`
    raises ends the run and is raised there.

    >>> class Mirror(VirtioDevice):
    ...     id = 42
    ...     queues = [64]
    ...     def wake(self, io, source):
    ...         while (chain := io.pop()) is not None:
    ...             chain.write(chain.read()[::-1])
    ...             chain.complete()
    """

    #: What errors call it.
    name: str = "virtio"
    #: What kind of device it is (Virtual I/O Device 1.2, section 5).
    id: int = 0
    #: How many chains each of its queues can hold: powers of 2 up to 32768.
    queues: List[int] = []
    #: The feature bits of this kind of device that it offers.
    features: int = 0
    #: Configuration space, as the driver reads it.
    config: "bytes | bytearray" = b""
    #: Descriptors that wake the device when they can be read.
    sources: List[int] = []

    _failed: Optional[BaseException] = None

    def wake(self, io: Io, source: Optional[int]) -> None:
        """The driver may have added chains, or `sources[source]` can be read."""
        raise NotImplementedError

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes to configuration space."""

    def reset(self) -> None:
        """The driver, or the machine, resets the device: chains that it keeps are void."""

    def drain(self) -> None:
        """The machine is about to be paused: it completes what it keeps for what may never come."""

    def save(self) -> bytes:
        """For `Machine.save`: what a device like this one needs to go on where this one stood, beside
        its queues.
        """
        return b""

    def restore(self, state: bytes) -> None:
        """For `Machine.restore`: becomes what was saved, which is not to be trusted."""

    def _add(self, config: Any) -> None:
        made = ffi.new("vmm_virtio **")
        user = Kept.keep(self)
        try:
            call(lib.vmm_virtio_new, self.name.encode(), self.id, _OPS, user, made)
        except BaseException:
            Kept.drop(user)
            raise
        device = ffi.gc(made[0], lib.vmm_virtio_free)
        for size in self.queues:
            lib.vmm_virtio_add_queue(device, size)
        lib.vmm_virtio_set_features(device, self.features)
        for fd in self.sources:
            call(lib.vmm_virtio_add_source, device, fd)
        lib.vmm_config_add_virtio(config, device)

    def _close(self) -> None:
        pass


@ffi.callback("int32_t(void *, vmm_io *, int32_t)", error=1)
def _wake(user: Any, io: Any, source: int) -> int:
    device = ffi.from_handle(user)
    try:
        device.wake(Io(io), None if source < 0 else source)
        return 0
    except BaseException as raised:
        device._failed = raised
        return 1


@ffi.callback("void(void *, uint64_t, uint8_t *, size_t)")
def _read_config(user: Any, offset: int, data: Any, size: int) -> None:
    there = bytes(ffi.from_handle(user).config[offset : offset + size])
    ffi.memmove(data, there, len(there))


@ffi.callback("void(void *, uint64_t, const uint8_t *, size_t)")
def _write_config(user: Any, offset: int, data: Any, size: int) -> None:
    device = ffi.from_handle(user)
    try:
        device.write_config(offset, bytes(ffi.buffer(data, size)))
    except BaseException as raised:
        device._failed = raised


@ffi.callback("void(void *)")
def _reset(user: Any) -> None:
    device = ffi.from_handle(user)
    try:
        device.reset()
    except BaseException as raised:
        device._failed = raised


@ffi.callback("void(void *)")
def _drain(user: Any) -> None:
    device = ffi.from_handle(user)
    try:
        device.drain()
    except BaseException as raised:
        device._failed = raised


@ffi.callback("int32_t(void *, vmm_result *)", error=1)
def _save(user: Any, state: Any) -> int:
    device = ffi.from_handle(user)
    try:
        data = bytes(device.save())
        lib.vmm_result_bytes(state, data, len(data))
        return 0
    except BaseException as raised:
        device._failed = raised
        return 1


@ffi.callback("int32_t(void *, const uint8_t *, size_t)", error=1)
def _restore(user: Any, state: Any, size: int) -> int:
    device = ffi.from_handle(user)
    try:
        device.restore(bytes(ffi.buffer(state, size)))
        return 0
    except BaseException as raised:
        device._failed = raised
        return 1


_OPS = ffi.new(
    "vmm_virtio_ops *",
    {
        "struct_size": ffi.sizeof("vmm_virtio_ops"),
        "wake": _wake,
        "read_config": _read_config,
        "write_config": _write_config,
        "reset": _reset,
        "drain": _drain,
        "drop": Kept.drop,
        "save": _save,
        "restore": _restore,
    },
)
