"""Disks: what guests find as virtio block devices."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass
from typing import Any, Optional, Union

from .error import call
from .library import Kept, close_at_exit, ffi, lib, path

PathName = Union[str, bytes, "os.PathLike[str]"]
_logger = logging.getLogger("vmm")


@dataclass(frozen=True)
class DiskStatistics:
    """What a guest has asked a disk for."""

    reads: int
    read_bytes: int
    writes: int
    written_bytes: int
    flushes: int
    discards: int
    #: Requests that failed.
    errors: int


class Disk:
    """A disk, for one `Machine`; it tells and changes what the machine has. Also a context manager,
    which frees it: files stay in use until then.

    `Disk.open` and its like make one of files and memory, `Disk.of` one of any object.

    >>> disk = Disk.memory(1 << 20)
    >>> disk.size, disk.statistics().reads
    (1048576, 0)
    """

    _disk: Any

    def __init__(self) -> None:
        raise TypeError("Disk.open, Disk.overlay, Disk.memory or Disk.of make one")

    @classmethod
    def open(cls, name: PathName, *, read_only: bool = False) -> Disk:
        """The raw image in this file; nobody else may write to it meanwhile."""
        return cls._made(lib.vmm_disk_open_read_only if read_only else lib.vmm_disk_open, path(name))

    @classmethod
    def memory(cls, size: int) -> Disk:
        """So many bytes of memory, whole sectors of 512."""
        return cls._made(lib.vmm_disk_memory, size)

    @classmethod
    def overlay(
        cls, base: PathName, name: Optional[PathName] = None, *, create: bool = False
    ) -> Disk:
        """The raw image in the file `base`, which is only read, and what is written instead: to the
        overlay `name`, which is new if `create`; without it nothing is kept.
        """
        if name is None:
            return cls._made(lib.vmm_disk_overlay_temporary, path(base))
        make = lib.vmm_disk_overlay_create if create else lib.vmm_disk_overlay_open
        return cls._made(make, path(name), path(base))

    @classmethod
    def of(cls, image: object, size: int) -> Disk:
        """A disk of `size` bytes, whole sectors of 512, of any object: `image.read(at, size)` gives
        bytes, `image.write(at, data)` takes them; without `write` it is only read. If they are there
        it also has `flush()`, `discard(at, size)` and `resize(size)`.

        They are called on a thread of the disk's. What they raise is the guest's I/O error, and is
        logged.

        >>> class Zeros:
        ...     def read(self, at, size):
        ...         return bytes(size)
        >>> Disk.of(Zeros(), 1 << 30).size
        1073741824
        """
        names = ("write", "flush", "discard", "resize")
        there = {name: _OPS[name] for name in names if hasattr(image, name)}
        ops = ffi.new(
            "vmm_disk_ops *",
            {
                "struct_size": ffi.sizeof("vmm_disk_ops"),
                "read": _OPS["read"],
                "drop": Kept.drop,
                **there,
            },
        )
        kept = Kept.keep(image)
        try:
            return cls._made(lib.vmm_disk_new, ops, size, kept)
        except BaseException:
            Kept.drop(kept)
            raise

    @classmethod
    def _made(cls, make: Any, *arguments: Any) -> Disk:
        made = ffi.new("vmm_disk **")
        call(make, *arguments, made)
        disk = cls.__new__(cls)
        disk._disk = ffi.gc(made[0], lib.vmm_disk_free)
        close_at_exit(disk)
        return disk

    def configure(
        self,
        *,
        read_only: bool = False,
        serial: Optional[str] = None,
        queues: Optional[int] = None,
        limit: Optional[int] = None,
    ) -> Disk:
        """Describes it before a machine has it: whether the guest can only read, its serial number,
        how many queues it has, how many bytes a second it gives. What is wrong is told by `Machine`.
        """
        if read_only:
            lib.vmm_disk_set_read_only(self._disk)
        if serial is not None:
            lib.vmm_disk_set_serial(self._disk, serial.encode())
        if queues is not None:
            lib.vmm_disk_set_queues(self._disk, queues)
        if limit is not None:
            lib.vmm_disk_set_limit(self._disk, limit, limit)
        return self

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees it, unless a machine has it: that keeps it until it is closed itself."""
        disk, self._disk = self._disk, ffi.NULL
        if disk:
            ffi.release(disk)

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return int(lib.vmm_disk_size(self._disk))

    def resize(self, size: int) -> None:
        """Makes it so long, also while the guest runs, which is told."""
        call(lib.vmm_disk_resize, self._disk, size)

    def statistics(self) -> DiskStatistics:
        """What the guest has asked for so far."""
        now = ffi.new("vmm_disk_statistics *", {"struct_size": ffi.sizeof("vmm_disk_statistics")})
        call(lib.vmm_disk_get_statistics, self._disk, now)
        return DiskStatistics(
            *(getattr(now, name) for name, _ in ffi.typeof("vmm_disk_statistics").fields[1:])
        )

    def _add(self, config: Any) -> None:
        lib.vmm_config_add_disk(config, self._disk)


def _errno(raised: BaseException) -> int:
    """What the guest's error is, in the host's terms."""
    _logger.error("a disk failed", exc_info=raised)
    return getattr(raised, "errno", None) or errno.EIO


@ffi.callback("int32_t(void *, uint64_t, uint8_t *, size_t)", error=errno.EIO)
def _read(user: Any, at: int, data: Any, size: int) -> int:
    try:
        ffi.buffer(data, size)[:] = ffi.from_handle(user).read(at, size)
        return 0
    except BaseException as raised:
        return _errno(raised)


@ffi.callback("int32_t(void *, uint64_t, const uint8_t *, size_t)", error=errno.EIO)
def _write(user: Any, at: int, data: Any, size: int) -> int:
    try:
        ffi.from_handle(user).write(at, bytes(ffi.buffer(data, size)))
        return 0
    except BaseException as raised:
        return _errno(raised)


@ffi.callback("int32_t(void *)", error=errno.EIO)
def _flush(user: Any) -> int:
    try:
        ffi.from_handle(user).flush()
        return 0
    except BaseException as raised:
        return _errno(raised)


@ffi.callback("int32_t(void *, uint64_t, uint64_t)", error=errno.EIO)
def _discard(user: Any, at: int, size: int) -> int:
    try:
        ffi.from_handle(user).discard(at, size)
        return 0
    except BaseException as raised:
        return _errno(raised)


@ffi.callback("int32_t(void *, uint64_t)", error=errno.EIO)
def _resize(user: Any, size: int) -> int:
    try:
        ffi.from_handle(user).resize(size)
        return 0
    except BaseException as raised:
        return _errno(raised)


_OPS = {
    "read": _read,
    "write": _write,
    "flush": _flush,
    "discard": _discard,
    "resize": _resize,
}
