"""The C library, and what all that use it need."""

from __future__ import annotations

import atexit
import os
import weakref
from pathlib import Path
from typing import Any, Optional

from . import _binding

#: What cffi makes of the header.
ffi: Any = _binding.ffi

#: Functions of the library: `lib.vmm_...`. VMM_LIBRARY names another one than the package's own.
lib: Any = ffi.dlopen(os.environ.get("VMM_LIBRARY", str(Path(__file__).parent / "libvmm.so")))

if not lib.vmm_abi_check(lib.VMM_ABI):
    raise ImportError("this libvmm.so is older than the package")


def text(chars: Any) -> str:
    """A string of the library's."""
    return str(ffi.string(chars), errors="replace")


def version() -> str:
    """The library's version.

    >>> version().count(".")
    2
    """
    return text(lib.vmm_version())


def path(name: "os.PathLike[str] | str | bytes") -> bytes:
    """A path as C wants it."""
    return os.fsencode(name)


def nanoseconds(seconds: Optional[float]) -> int:
    """A limit of time as C wants it: 0 for none, and never 0 for some."""
    return 0 if seconds is None else max(1, int(seconds * 1e9))


#: What may have threads of the library's that call Python, in the order it was made.
_open: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()


def close_at_exit(made: Any) -> None:
    """Has it closed while there still is an interpreter that those threads can call."""
    _open[id(made)] = made


@atexit.register
def _close_all() -> None:
    # The newest first: machines before their disks.
    for made in reversed(list(_open.values())):
        made.close()


class Kept:
    """Python objects that C has pointers to, until it says that it is done with them."""

    _all: "dict[int, Any]" = {}

    @classmethod
    def keep(cls, value: object) -> Any:
        """A pointer for `value`, to be passed with `Kept.drop`."""
        handle = ffi.new_handle(value)
        cls._all[int(ffi.cast("uintptr_t", handle))] = handle
        return handle

    @staticmethod
    @ffi.callback("void(void *)")
    def drop(user: Any) -> None:
        """What C calls when it is done."""
        Kept._all.pop(int(ffi.cast("uintptr_t", user)), None)
