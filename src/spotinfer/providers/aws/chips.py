"""Which chips EC2's machines have, in our names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...core.model import GPU, Accelerators
from . import wire

MIB = 1 << 20
CUDA = (13, 0)
"""What the Deep Learning AMI's driver runs at least: 580 since January 2026, 595 in October 2026 (release notes)."""


@dataclass(frozen=True, slots=True)
class Chip:
    name: str
    capability: tuple[int, int]


CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "T4": Chip("T4", (7, 5)),
        "T4g": Chip("T4G", (7, 5)),
        "A10G": Chip("A10G", (8, 6)),
        "L4": Chip("L4", (8, 9)),
        "L40S": Chip("L40S", (8, 9)),
        "H100": Chip("H100 SXM", (9, 0)),
        "H200": Chip("H200", (9, 0)),
        "B200": Chip("B200", (10, 0)),
        "B300": Chip("B300", (10, 3)),
        "RTX PRO 4500": Chip("RTX PRO 4500", (12, 0)),
        "RTX PRO Server 6000": Chip("RTX PRO 6000 Server", (12, 0)),
    }
)
"""AWS's name -> ours. A chip that is not here is offered under AWS's name."""
A100_SIZES: Mapping[int, Chip] = MappingProxyType(
    {40: Chip("A100 40GB SXM", (8, 0)), 80: Chip("A100 80GB SXM", (8, 0))}
)
"""Gibibytes -> name: AWS calls both "A100"."""
TOO_OLD = frozenset({"K80", "M60", "K520", "V100"})
"""The AMI has NVIDIA's open driver, which needs Turing or newer."""


def accelerators(machine: wire.InstanceType) -> Accelerators | None:
    """The chips of a whole machine; None where there is none that we can use (no NVIDIA, too old, a slice of one)."""
    usable = [gpu for gpu in machine.gpu_info.gpus if gpu.manufacturer == "NVIDIA" and gpu.count > 0]
    if len(usable) != 1 or usable[0].name in TOO_OLD or not usable[0].memory_info.size_in_mi_b:
        return None
    gpu = usable[0]
    size = gpu.memory_info.size_in_mi_b
    chip = A100_SIZES.get(round(size / 1024)) if gpu.name == "A100" else CHIPS.get(gpu.name)
    return Accelerators(
        gpu=GPU(name=chip.name if chip else gpu.name, memory=size * MIB, capability=chip.capability if chip else None),
        count=gpu.count,
    )
