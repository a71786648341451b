"""RunPod's names for GPUs -> canonical name, usable bytes of memory as the driver reports them, compute capability.

RunPod quotes the marketed size, which is up to 7 % more than an engine can use. A GPU that is not listed is not
offered: whether a model fits into it could only be guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...core.model import GPU

_NVIDIA: tuple[tuple[str, str, int, tuple[int, int]], ...] = (
    ("NVIDIA H100 80GB HBM3", "H100 SXM", 85520809984, (9, 0)),
    ("NVIDIA H100 PCIe", "H100 PCIe", 85520809984, (9, 0)),
    ("NVIDIA H100 NVL", "H100 NVL", 100485038080, (9, 0)),
    ("NVIDIA H200", "H200", 150754820096, (9, 0)),
    ("NVIDIA H200 NVL", "H200 NVL", 150754820096, (9, 0)),
    ("NVIDIA B200", "B200", 192265846784, (10, 0)),
    ("NVIDIA B300 SXM6 AC", "B300", 288400343040, (10, 3)),
    ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM", 85899345920, (8, 0)),
    ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe", 85899345920, (8, 0)),
    ("NVIDIA A30", "A30", 25769803776, (8, 0)),
    ("NVIDIA A40", "A40", 48305799168, (8, 6)),
    ("NVIDIA RTX A6000", "RTX A6000", 51527024640, (8, 6)),
    ("NVIDIA RTX A5000", "RTX A5000", 25757220864, (8, 6)),
    ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", 51527024640, (8, 9)),
    ("NVIDIA RTX 5000 Ada Generation", "RTX 5000 Ada", 34351349760, (8, 9)),
    ("NVIDIA RTX 4000 Ada Generation", "RTX 4000 Ada", 21469593600, (8, 9)),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Server", 102641958912, (12, 0)),
    ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000", 102641958912, (12, 0)),
    ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000", 102641958912, (12, 0)),
    ("NVIDIA L4", "L4", 24152899584, (8, 9)),
    ("NVIDIA L40", "L40", 48305799168, (8, 9)),
    ("NVIDIA L40S", "L40S", 48305799168, (8, 9)),
    ("NVIDIA GeForce RTX 3090", "RTX 3090", 25769803776, (8, 6)),
    ("NVIDIA GeForce RTX 4090", "RTX 4090", 25250627584, (8, 9)),
    ("NVIDIA GeForce RTX 5090", "RTX 5090", 34190917632, (12, 0)),
    ("Tesla V100-SXM2-16GB", "V100 16GB", 17179869184, (7, 0)),
    ("Tesla V100-SXM2-32GB", "V100 32GB", 34359738368, (7, 0)),
)

CHIPS: Mapping[str, GPU] = MappingProxyType(
    {runpod: GPU(name=name, memory=memory, capability=capability) for runpod, name, memory, capability in _NVIDIA}
)
