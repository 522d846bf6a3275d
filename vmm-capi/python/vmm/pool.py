"""Pools of sandboxes."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from typing import Any, Optional

from .error import HostError, call
from .library import close_at_exit, ffi, lib
from .sandbox import Sandbox, Snapshot

#: How long Python's signal handlers wait at most, in seconds.
_SLICE = 0.05


@dataclass(frozen=True)
class PoolStatistics:
    """What a pool has, and has done."""

    #: Sandboxes that can be taken at once.
    ready: int
    #: Those that are lent out.
    in_use: int
    forks: int
    #: How many came back and were reset.
    resets: int
    #: How many came back and could not be reset.
    replaced: int
    #: How often somebody had to wait for one.
    waits: int


class Pool:
    """At most `size` sandboxes of one snapshot, made before they are asked for and reset when they
    come back; also a context manager, which frees it. Any thread may use it.

        with vmm.Pool(app.snapshot(), 4) as pool:
            with pool.take() as child:
                child.call("score", "text")
    """

    def __init__(self, snapshot: Snapshot, size: int) -> None:
        made = ffi.new("vmm_pool **")
        call(lib.vmm_pool_new, snapshot._snapshot, size, made)
        self._pool: Any = ffi.gc(made[0], lib.vmm_pool_free)
        close_at_exit(self)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees it, and what it has; what is lent out is freed when it comes back."""
        pool, self._pool = self._pool, ffi.NULL
        if pool:
            ffi.release(pool)

    def take(self, timeout: Optional[float] = None) -> Sandbox:
        """Takes a sandbox that is as the snapshot says; its `close`, or the end of its `with`, gives
        it back. Waits while all are in use: TimeoutError after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        made = ffi.new("vmm_sandbox **")
        while True:
            left = _SLICE if end is None else min(_SLICE, max(0.0, end - time.monotonic()))
            try:
                call(lib.vmm_pool_take, self._pool, int(left * 1e9), made)
                break
            except HostError as error:
                if error.errno != errno.ETIMEDOUT:
                    raise
                if end is not None and time.monotonic() >= end:
                    raise TimeoutError(str(error)) from error
        sandbox = Sandbox.__new__(Sandbox)
        sandbox._of(made[0])
        return sandbox

    def statistics(self) -> PoolStatistics:
        """What it has, and has done so far."""
        now = ffi.new("vmm_pool_statistics *", {"struct_size": ffi.sizeof("vmm_pool_statistics")})
        call(lib.vmm_pool_get_statistics, self._pool, now)
        return PoolStatistics(
            *(getattr(now, name) for name, _ in ffi.typeof("vmm_pool_statistics").fields[1:])
        )
