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
from .console import Console
from .device import Device, PowerOff, Reset
from .disk import Disk, DiskStatistics
from .library import version
from .log import log_to
from .machine import Elf64, Exits, Linux, LongMode, Machine, Multiboot, Pvh, RealMode, Traffic
from .obstacle import Obstacle, ObstacleKind
from .outcome import Cause, Ending, Outcome, State
from .pool import Pool, PoolStatistics
from .probe import Inspection, KvmKind, Report, Way, inspect, probe
from .sandbox import Sandbox, SandboxStatistics, Snapshot, int32
from .virtio import Chain, Io, VirtioDevice
from .vm_cache import VmCache, VmCacheStatistics

__all__ = [
    "BadConfig",
    "BadImage",
    "Cause",
    "Chain",
    "Console",
    "Device",
    "Disk",
    "DiskStatistics",
    "Elf64",
    "Ending",
    "Error",
    "Exits",
    "GuestMemory",
    "HostError",
    "InCallback",
    "Incompatible",
    "Inspection",
    "Internal",
    "Interrupted",
    "Io",
    "KvmKind",
    "Linux",
    "LongMode",
    "Machine",
    "Multiboot",
    "NoHypervisor",
    "NotFound",
    "Obstacle",
    "ObstacleKind",
    "Outcome",
    "Poisoned",
    "Pool",
    "PoolStatistics",
    "PowerOff",
    "Pvh",
    "RealMode",
    "Report",
    "Reset",
    "Sandbox",
    "SandboxStatistics",
    "Snapshot",
    "SnapshotError",
    "State",
    "Traffic",
    "Unsupported",
    "VirtioDevice",
    "VmCache",
    "VmCacheStatistics",
    "Way",
    "WrongProcess",
    "WrongState",
    "inspect",
    "int32",
    "log_to",
    "probe",
    "version",
]
