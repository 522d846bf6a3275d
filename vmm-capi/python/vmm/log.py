"""What the library has to say, as messages of `logging`."""

from __future__ import annotations

import atexit
import logging
from typing import Any, Optional

from .error import call
from .library import Kept, ffi, lib, text

_LEVELS = {
    lib.VMM_LOG_LEVEL_ERROR: logging.ERROR,
    lib.VMM_LOG_LEVEL_WARN: logging.WARNING,
    lib.VMM_LOG_LEVEL_INFO: logging.INFO,
    lib.VMM_LOG_LEVEL_DEBUG: logging.DEBUG,
    lib.VMM_LOG_LEVEL_TRACE: logging.DEBUG - 5,
}


def log_to(logger: Optional[logging.Logger], level: int = logging.WARNING) -> None:
    """Gives `logger` what the library says from that level on, instead of whoever had it before;
    None for nobody, as it is at first. The part of the library that says something is a child of
    `logger`, such as `vmm.devices.serial`.

    >>> log_to(logging.getLogger("vmm"), logging.DEBUG)
    >>> log_to(None)
    """
    if logger is None:
        call(lib.vmm_set_log, lib.VMM_LOG_LEVEL_OFF, ffi.NULL, ffi.NULL, ffi.NULL)
        return
    most = max((ours for ours, theirs in _LEVELS.items() if theirs >= level), default=0)
    user = Kept.keep(logger)
    try:
        call(lib.vmm_set_log, most, _hear, user, Kept.drop)
    except BaseException:
        Kept.drop(user)
        raise


@ffi.callback("void(void *, vmm_log_level, const char *, const char *)")
def _hear(user: Any, level: int, target: Any, message: Any) -> None:
    name = text(target).replace("vmm_", "", 1).replace("::", ".")
    ffi.from_handle(user).getChild(name).log(_LEVELS.get(level, logging.ERROR), "%s", text(message))


# Threads of the library must not call into an interpreter that is gone.
atexit.register(log_to, None)
