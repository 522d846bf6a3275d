"""What this host can run."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .error import call
from .library import ffi, lib, text


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


def probe() -> Report:
    """Measures what this host can run; remembered for the life of the process.

    >>> str(probe()).startswith("This host has")
    True
    """
    report = ffi.new("vmm_report **")
    call(lib.vmm_probe, report)
    found = ffi.gc(report[0], lib.vmm_report_free)
    return Report(KvmKind(lib.vmm_report_kvm(found)), text(lib.vmm_report_text(found)))
