"""What this host can run, and what an image is."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass

from .error import call
from .library import ffi, lib, path, text


class KvmKind(enum.Enum):
    """The kinds of /dev/kvm."""

    #: None that can be used: guests run on the CPU in software.
    NONE = lib.VMM_KVM_KIND_NONE
    #: Programs run natively, kernels are emulated by the host's kernel.
    USER_MODE = lib.VMM_KVM_KIND_USER_MODE
    #: All guests run natively.
    WHOLE = lib.VMM_KVM_KIND_WHOLE


@dataclass(frozen=True)
class Report:
    """What was found out about this host."""

    kvm: KvmKind
    #: The whole report in lines.
    text: str

    def __str__(self) -> str:
        return self.text


class Way(enum.Enum):
    """A way to boot an image."""

    #: None that this library knows.
    NONE = lib.VMM_BOOT_NONE
    #: `Linux`.
    LINUX = lib.VMM_BOOT_LINUX
    #: `Pvh`.
    PVH = lib.VMM_BOOT_PVH
    #: `Multiboot`.
    MULTIBOOT = lib.VMM_BOOT_MULTIBOOT
    #: `Elf64`.
    ELF64 = lib.VMM_BOOT_ELF64


@dataclass(frozen=True)
class Inspection:
    """What an image's headers say."""

    best: Way
    #: Each way, and why it is one or is none, in lines.
    text: str

    def __str__(self) -> str:
        return self.text


def inspect(image: "os.PathLike[str] | str | bytes") -> Inspection:
    """Looks at the headers of the image in this file: how can it be booted?"""
    made = ffi.new("vmm_inspection **")
    call(lib.vmm_inspect, path(image), made)
    found = ffi.gc(made[0], lib.vmm_inspection_free)
    return Inspection(Way(lib.vmm_inspection_best(found)), text(lib.vmm_inspection_text(found)))


def probe() -> Report:
    """Measures what this host can run; remembered for the life of the process.

    >>> str(probe()).startswith("This host has")
    True
    """
    report = ffi.new("vmm_report **")
    call(lib.vmm_probe, report)
    found = ffi.gc(report[0], lib.vmm_report_free)
    return Report(KvmKind(lib.vmm_report_kvm(found)), text(lib.vmm_report_text(found)))
