"""VMs of sandboxes that are gone, for those that are made next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .error import call
from .library import close_at_exit, ffi, lib


@dataclass(frozen=True)
class VmCacheStatistics:
    """What a cache has, and has done."""

    #: VMs that can be taken.
    idle: int
    #: How many were taken.
    reused: int
    #: How many came back to a cache that was full, and were closed.
    closed: int


class VmCache:
    """Keeps at most `size` VMs of sandboxes that are closed, for forks to come; also a context manager,
    which frees it. To make and to close a VM takes most of the time of a fork's life. Nothing of the
    program that was in one stays. Any thread may use it.

        vms = vmm.VmCache(8)
        app = vmm.Sandbox("./hostcall", vm_cache=vms)
    """

    def __init__(self, size: int) -> None:
        made = ffi.new("vmm_vm_cache **")
        call(lib.vmm_vm_cache_new, size, made)
        self._cache: Any = ffi.gc(made[0], lib.vmm_vm_cache_free)
        close_at_exit(self)

    def __enter__(self) -> VmCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees it, and the VMs in it; sandboxes that have it go on."""
        cache, self._cache = self._cache, ffi.NULL
        if cache:
            ffi.release(cache)

    def statistics(self) -> VmCacheStatistics:
        """What it has, and has done so far."""
        kind = "vmm_vm_cache_statistics"
        now = ffi.new(f"{kind} *", {"struct_size": ffi.sizeof(kind)})
        call(lib.vmm_vm_cache_get_statistics, self._cache, now)
        return VmCacheStatistics(*(getattr(now, name) for name, _ in ffi.typeof(kind).fields[1:]))
