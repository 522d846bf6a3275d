"""What can go wrong: one class of exceptions for each status."""

from __future__ import annotations

from typing import Any, Callable, Optional

from .library import ffi, lib, text


class Error(Exception):
    """Something failed; the message names the thing and the value."""

    #: The number of the operating system's error, 0 if that was not the cause.
    errno: Optional[int] = 0


class BadConfig(Error, ValueError):
    """A setting is outside what the host or the library supports."""


class BadImage(Error, ValueError):
    """A guest image is malformed or does not fit."""


class GuestMemory(Error, IndexError):
    """An address range is not memory of the guest."""


class HostError(Error, OSError):
    """The host's operating system refused."""


class InCallback(Error):
    """The call is not possible from inside a callback."""


class Incompatible(Error):
    """Saved state does not fit this host or machine."""


class Internal(Error):
    """A defect of the library."""


class Interrupted(Error):
    """A signal interrupted the call."""


class NoHypervisor(Error):
    """No hypervisor can be used on this host."""


class NotFound(Error, LookupError):
    """The named thing does not exist."""


class Poisoned(Error):
    """Something failed in the middle and can no longer be used."""


class SnapshotError(Error, ValueError):
    """A snapshot is malformed."""


class Unsupported(Error):
    """The back end cannot do this."""


class WrongProcess(Error):
    """The object belongs to the process that made it, not to its child after fork()."""


class WrongState(Error):
    """The object is not in a state that allows the call."""


_CLASSES = {
    lib.VMM_STATUS_BAD_CONFIG: BadConfig,
    lib.VMM_STATUS_BAD_IMAGE: BadImage,
    lib.VMM_STATUS_GUEST_MEMORY: GuestMemory,
    lib.VMM_STATUS_HOST: HostError,
    lib.VMM_STATUS_IN_CALLBACK: InCallback,
    lib.VMM_STATUS_INCOMPATIBLE: Incompatible,
    lib.VMM_STATUS_INTERNAL: Internal,
    lib.VMM_STATUS_INTERRUPTED: Interrupted,
    lib.VMM_STATUS_NO_HYPERVISOR: NoHypervisor,
    lib.VMM_STATUS_NOT_FOUND: NotFound,
    lib.VMM_STATUS_POISONED: Poisoned,
    lib.VMM_STATUS_SNAPSHOT: SnapshotError,
    lib.VMM_STATUS_UNSUPPORTED: Unsupported,
    lib.VMM_STATUS_WRONG_PROCESS: WrongProcess,
    lib.VMM_STATUS_WRONG_STATE: WrongState,
}


def call(function: "Callable[..., int]", *arguments: Any) -> None:
    """Calls a function of C; what it fails with is raised."""
    error = ffi.new("vmm_error **")
    status = function(*arguments, error)
    if status == lib.VMM_STATUS_OK:
        return
    raised = _CLASSES.get(status, Error)(text(lib.vmm_error_message(error[0])))
    raised.errno = lib.vmm_error_os(error[0])
    lib.vmm_error_free(error[0])
    raise raised
