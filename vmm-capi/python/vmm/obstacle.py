"""What stands in the way of a snapshot in a file."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, List

from .error import call
from .library import ffi, lib, text


class ObstacleKind(enum.Enum):
    """Kinds of obstacles."""

    #: Another, which the text tells.
    OTHER = lib.VMM_OBSTACLE_KIND_OTHER
    #: A directory of the host, as the program was granted it.
    DIRECTORY = lib.VMM_OBSTACLE_KIND_DIRECTORY
    #: A feature of the processor that it may have seen.
    FEATURE = lib.VMM_OBSTACLE_KIND_FEATURE
    #: A function of the host that it could call.
    FUNCTION = lib.VMM_OBSTACLE_KIND_FUNCTION
    #: Registers in which it has something.
    REGISTERS = lib.VMM_OBSTACLE_KIND_REGISTERS


@dataclass(frozen=True)
class Obstacle:
    """A reason why a snapshot in a file would not run as it did where it was made."""

    kind: ObstacleKind
    #: A path, a feature, a function, or bits of XCR0 for registers.
    name: str
    #: The whole reason in one line.
    text: str

    def __str__(self) -> str:
        return self.text


def in_the_way(config: Any) -> List[Obstacle]:
    """What stands in the way of a description."""
    made = ffi.new("vmm_obstacles **")
    call(lib.vmm_sandbox_config_check, config, made)
    found = ffi.gc(made[0], lib.vmm_obstacles_free)
    each = (lib.vmm_obstacles_at(found, n) for n in range(lib.vmm_obstacles_size(found)))
    return [Obstacle(ObstacleKind(one.kind), text(one.name), text(one.text)) for one in each]
