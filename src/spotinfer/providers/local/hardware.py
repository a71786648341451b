"""What this computer has: processors, memory, and NVIDIA chips by NVML or by ``nvidia-smi``; no chip is fine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ...core.model import GPU, Accelerators

SMI_SECONDS = 10.0
MIB = 1 << 20
ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}
"""What systems call an architecture, in the words of ``Offer.arch``."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
SMI_FIELDS = "index,uuid,name,memory.total,compute_cap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One chip as the driver names it; ``index`` and ``uuid`` are what ``CUDA_VISIBLE_DEVICES`` may say."""

    index: int
    uuid: str
    gpu: GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """This computer. ``accelerators`` is the group of equal chips with the most memory; ``notes`` say what is odd."""

    cpus: int
    memory: int
    arch: str
    accelerators: Accelerators | None
    notes: tuple[str, ...]


def survey() -> Hardware:
    """Look at this computer. Takes up to a second where there is a driver, and blocks."""
    chips = visible(_chips(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    accelerators, notes = grouped(chips)
    machine = platform.machine().lower()
    return Hardware(
        cpus=_cpus(),
        memory=_memory(),
        arch=ARCHITECTURES.get(machine, machine),
        accelerators=accelerators,
        notes=notes,
    )


def grouped(chips: Iterable[Chip]) -> tuple[Accelerators | None, tuple[str, ...]]:
    """The equal chips that together have the most memory, and a note where others are left out."""
    groups: dict[GPU, int] = {}
    for chip in chips:
        groups[chip.gpu] = groups.get(chip.gpu, 0) + 1
    if not groups:
        return None, ("no NVIDIA GPU was found: models run on the CPU",)
    best = max(groups, key=lambda gpu: gpu.memory * groups[gpu])
    left_out = [f"{count}x {gpu.name}" for gpu, count in groups.items() if gpu != best]
    notes = (f"GPUs of another kind are not offered: {', '.join(left_out)}",) if left_out else ()
    return Accelerators(gpu=best, count=groups[best]), notes


def visible(chips: Iterable[Chip], wish: str | None) -> list[Chip]:
    """The chips that ``CUDA_VISIBLE_DEVICES`` leaves. As in CUDA, the first word that fits no chip ends the list."""
    chips = list(chips)
    if wish is None:
        return chips
    kept: list[Chip] = []
    for word in (part.strip() for part in wish.split(",")):
        fits = [chip for chip in chips if word == str(chip.index) or (word and chip.uuid.startswith(word))]
        if not fits:
            break
        kept.append(fits[0])
    return kept


def _chips() -> list[Chip]:
    found = _by_nvml()
    return _by_smi() if found is None else found


def _by_nvml() -> list[Chip] | None:
    """None where NVML cannot be asked; the driver's own program may still answer."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return [_nvml_chip(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _nvml_chip(api: Any, index: int) -> Chip:
    handle = api.nvmlDeviceGetHandleByIndex(index)
    major, minor = api.nvmlDeviceGetCudaComputeCapability(handle)
    gpu = GPU(
        name=chip_name(_text(api.nvmlDeviceGetName(handle))),
        memory=int(api.nvmlDeviceGetMemoryInfo(handle).total),
        capability=(int(major), int(minor)),
    )
    return Chip(index=index, uuid=_text(api.nvmlDeviceGetUUID(handle)), gpu=gpu)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _by_smi() -> list[Chip]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=SMI_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_smi(answer.stdout)


def parse_smi(text: str) -> list[Chip]:
    """Chips out of ``nvidia-smi --query-gpu``; a line that it cannot read is no chip (a broken one shows ``[N/A]``)."""
    chips = []
    for line in text.splitlines():
        with suppress(ValueError):
            index, uuid, name, memory, capability = (part.strip() for part in line.split(","))
            major, _, minor = capability.partition(".")
            gpu = GPU(name=chip_name(name), memory=int(memory) * MIB, capability=(int(major), int(minor)))
            chips.append(Chip(index=int(index), uuid=uuid, gpu=gpu))
    return chips


def chip_name(name: str) -> str:
    """The driver's name without the maker: ``NVIDIA GeForce RTX 4090`` is ``RTX 4090``."""
    words = [word for word in name.split() if word not in ("NVIDIA", "GeForce")]
    return " ".join(words) or name


def _cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # what this process may use, where the system tells
    return len(affinity(0)) if affinity is not None else psutil.cpu_count() or 1


def _memory() -> int:
    """Bytes of memory, or the container's limit where that is less."""
    total = int(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):  # "max", or no cgroup at all
        return min(total, int(CGROUP_LIMIT.read_text()))
    return total
