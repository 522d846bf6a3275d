"""Virtual machines, and sandboxes for ordinary programs, inside this process.

A `Machine` runs a kernel or bare code with the devices it is given; a `Sandbox` runs one static Linux
program, or calls its functions, without a kernel. Both come back: nothing here ends the process.

>>> with Machine(memory=1 << 20, boot=LongMode(b"\\xb0\\x07\\xe6\\xf4"), interrupts=False, debug_exit=True) as m:
...     m.run().code
7
"""

from .error import (
    BadConfig,
    BadImage,
    Error,
    GuestMemory,
    HostError,
    InCallback,
    Incompatible,
    Internal,
    Interrupted,
    NoHypervisor,
    NotFound,
    Poisoned,
    SnapshotError,
    Unsupported,
    WrongProcess,
    WrongState,
)
from .device import Device, PowerOff, Reset
from .library import version
from .machine import Elf64, Linux, LongMode, Machine, Multiboot, RealMode
from .outcome import Cause, Ending, Outcome, State
from .probe import KvmKind, Report, probe
from .sandbox import Sandbox, Snapshot, int32

__all__ = [
    "BadConfig",
    "BadImage",
    "Cause",
    "Device",
    "Elf64",
    "Ending",
    "Error",
    "GuestMemory",
    "HostError",
    "InCallback",
    "Incompatible",
    "Internal",
    "Interrupted",
    "KvmKind",
    "Linux",
    "LongMode",
    "Machine",
    "Multiboot",
    "NoHypervisor",
    "NotFound",
    "Outcome",
    "Poisoned",
    "PowerOff",
    "RealMode",
    "Report",
    "Reset",
    "Sandbox",
    "Snapshot",
    "SnapshotError",
    "State",
    "Unsupported",
    "WrongProcess",
    "WrongState",
    "int32",
    "probe",
    "version",
]
