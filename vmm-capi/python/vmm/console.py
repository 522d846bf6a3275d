"""Consoles over virtio, and who is at their other end."""

from __future__ import annotations

import errno
import logging
from typing import Any, Mapping, Optional, Protocol, Tuple, Union

from .error import call
from .library import Kept, close_at_exit, ffi, lib

_logger = logging.getLogger("vmm")


class HasDescriptor(Protocol):
    """A socket, or what else has a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class SendsTo(Protocol):
    """The other end of a port, as `Console` says; what else it has is looked for by name."""

    def send(self, data: bytes, /) -> Optional[int]:
        """Takes what the guest sends."""
        ...


class Takes(Protocol):
    """A function that takes what the guest sends."""

    def __call__(self, data: bytes, /) -> object: ...


#: Who is at the other end of a port.
Peer = Union[HasDescriptor, SendsTo, Takes, Tuple[Optional[int], int]]


class Console:
    """A console over virtio, which Linux calls /dev/hvc0, for one `Machine`; and named ports beside
    it, which Linux has as /dev/virtio-ports/NAME. Also a context manager, which frees it.

    At the other end of each is

    - a pair of descriptors, as (0, 1): what comes from the first goes to the guest, what the guest sends
      goes to the second; None for no input;
    - a socket, or what else has `fileno()`, for both directions;
    - a function, which is called with the bytes that the guest sends;
    - any object with `send(data)`, which takes what the guest sends: all of it, or as many bytes as it
      gives. If they are there it also has `receive(size)`, which gives up to so many bytes for the
      guest, b"" if there will never be more, None if there are none now; `readable`, a descriptor that
      can be read while `receive` has something, without which it is not asked; `writable`, one that
      can be written when `send` has room again, after it gave 0; and `opened(is_open)`, which is
      called when a program in the guest opens or closes a named port.

    Functions are called on a thread of the machine, one at a time, and must not wait. What they raise
    is logged; what the guest sends afterwards is lost.

    `ports` are there from the beginning, by name; there is `room` for so many more. `size` is columns
    and rows.

    >>> said = []
    >>> console = Console(said.append, ports={"agent": (None, 1)}, size=(80, 25))
    """

    _console: Any

    def __init__(
        self,
        peer: Peer,
        *,
        ports: Optional[Mapping[str, Peer]] = None,
        room: int = 0,
        size: Optional[Tuple[int, int]] = None,
    ) -> None:
        made = ffi.new("vmm_console **")
        call(lib.vmm_console_new, _peer(peer), made)
        self._console = ffi.gc(made[0], lib.vmm_console_free)
        close_at_exit(self)
        ports = ports or {}
        if ports or room:
            lib.vmm_console_set_room(self._console, len(ports) + room)
        for name, end in ports.items():
            self.add_port(name, end)
        if size is not None:
            self.resize(*size)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees it, unless a machine has it: that keeps it until it is closed itself."""
        console, self._console = self._console, ffi.NULL
        if console:
            ffi.release(console)

    def add_port(self, name: str, peer: Peer) -> None:
        """One more port, if there is room; also while the guest runs, which is told."""
        call(lib.vmm_console_add_port, self._console, name.encode(), _peer(peer))

    def resize(self, columns: int, rows: int) -> None:
        """How large it is, in characters; the guest is told, also while it runs."""
        call(lib.vmm_console_resize, self._console, columns, rows)

    def _add(self, config: Any) -> None:
        lib.vmm_config_add_console(config, self._console)


def _peer(peer: Peer) -> Any:
    """What C has for it."""
    made = ffi.new("vmm_peer **")
    if isinstance(peer, tuple):
        receives, sends = peer
        call(lib.vmm_peer_stream, -1 if receives is None else receives, sends, made)
    elif hasattr(peer, "fileno"):
        call(lib.vmm_peer_stream, peer.fileno(), peer.fileno(), made)
    else:
        own = peer if hasattr(peer, "send") else _Function(peer)
        _own(own, made)
    return ffi.gc(made[0], lib.vmm_peer_free)


class _Function:
    """A function as an object."""

    def __init__(self, function: Any) -> None:
        if not callable(function):
            raise TypeError(f"the other end of a console: {function!r}")
        self.send = lambda data: function(data) and None


def _own(peer: Any, made: Any) -> None:
    ops = ffi.new(
        "vmm_peer_ops *",
        {
            "struct_size": ffi.sizeof("vmm_peer_ops"),
            "drop": Kept.drop,
            **{name: given for name, given in _OPS.items() if hasattr(peer, name)},
        },
    )
    fds = (getattr(peer, name, None) for name in ("readable", "writable"))
    kept = Kept.keep(peer)
    try:
        call(lib.vmm_peer_new, ops, *(-1 if fd is None else fd for fd in fds), kept, made)
    except BaseException:
        Kept.drop(kept)
        raise


def _failed(raised: BaseException) -> int:
    _logger.error("the other end of a console failed", exc_info=raised)
    return -(getattr(raised, "errno", None) or errno.EIO)


@ffi.callback("ptrdiff_t(void *, const uint8_t *, size_t)", error=-errno.EIO)
def _send(user: Any, data: Any, size: int) -> int:
    try:
        took = ffi.from_handle(user).send(bytes(ffi.buffer(data, size)))
        if took is None:
            return size
        return -errno.EAGAIN if took == 0 else int(took)
    except BlockingIOError:
        return -errno.EAGAIN
    except BaseException as raised:
        return _failed(raised)


@ffi.callback("ptrdiff_t(void *, uint8_t *, size_t)", error=-errno.EIO)
def _receive(user: Any, data: Any, size: int) -> int:
    try:
        given = ffi.from_handle(user).receive(size)
        if given is None:
            return -errno.EAGAIN
        if len(given) > size:
            raise ValueError(f"{len(given)} bytes where {size} were asked for")
        ffi.memmove(data, bytes(given), len(given))
        return len(given)
    except BlockingIOError:
        return -errno.EAGAIN
    except BaseException as raised:
        return _failed(raised)


@ffi.callback("void(void *, bool)")
def _opened(user: Any, is_open: bool) -> None:
    try:
        ffi.from_handle(user).opened(bool(is_open))
    except BaseException as raised:
        _failed(raised)


_OPS = {"send": _send, "receive": _receive, "opened": _opened}
