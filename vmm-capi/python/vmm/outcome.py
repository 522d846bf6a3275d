"""How runs end, and what machines do."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Optional

from .library import lib, text


class Ending(enum.Enum):
    """How a run ended."""

    #: A machine: a vCPU cannot go on.
    FAULT = lib.VMM_ENDING_FAULT
    #: A machine without interrupt controllers: HLT; a further run goes on.
    HALTED = lib.VMM_ENDING_HALTED
    #: A machine: the guest ended itself with `code`.
    POWER_OFF = lib.VMM_ENDING_POWER_OFF
    #: A machine: the guest asked for a reset.
    RESET = lib.VMM_ENDING_RESET
    #: A machine: it was stopped.
    STOPPED = lib.VMM_ENDING_STOPPED
    #: A sandbox: the program has exited with the status `code`.
    EXITED = lib.VMM_ENDING_EXITED
    #: A sandbox: the program was stopped; `cause` says why.
    KILLED = lib.VMM_ENDING_KILLED
    #: A sandbox: the program is ready to be called.
    READY = lib.VMM_ENDING_READY


class Cause(enum.Enum):
    """Why a program was stopped in the middle."""

    OTHER = lib.VMM_CAUSE_OTHER
    CANCELLED = lib.VMM_CAUSE_CANCELLED
    CPU_TIME = lib.VMM_CAUSE_CPU_TIME
    FAULT = lib.VMM_CAUSE_FAULT
    HOST_FUNCTION = lib.VMM_CAUSE_HOST_FUNCTION
    OUTPUT = lib.VMM_CAUSE_OUTPUT
    SIGNAL = lib.VMM_CAUSE_SIGNAL
    TIMED_OUT = lib.VMM_CAUSE_TIMED_OUT
    INTERRUPTED = lib.VMM_CAUSE_INTERRUPTED


class State(enum.Enum):
    """What a machine is doing."""

    #: There will be no further run.
    ENDED = lib.VMM_MACHINE_STATE_ENDED
    #: Nothing of it runs, until it is resumed.
    PAUSED = lib.VMM_MACHINE_STATE_PAUSED
    #: It can be run.
    READY = lib.VMM_MACHINE_STATE_READY
    #: It is being run.
    RUNNING = lib.VMM_MACHINE_STATE_RUNNING


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    ending: Ending
    #: A machine's power-off code, a program's exit status; else 0.
    code: int
    #: The same in words.
    text: str
    #: Why a program was stopped.
    cause: Optional[Cause] = None

    def __str__(self) -> str:
        return self.text

    @staticmethod
    def of(outcome: Any) -> Outcome:
        """Of a `vmm_outcome *`."""
        ending = Ending(outcome.ending)
        killed = ending is Ending.KILLED
        cause = Cause(outcome.code) if killed else None
        return Outcome(ending, 0 if killed else outcome.code, text(outcome.text), cause)
