"""What this computer is found to have."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from spotinfer.core.model import GPU, OfferKind, Want
from spotinfer.providers.local import hardware
from spotinfer.providers.local.adapter import LocalProvider
from spotinfer.providers.local.hardware import Chip, chip_name, grouped, parse_smi, visible

GIB = 1 << 30
H100 = GPU(name="H100 80GB HBM3", memory=81559 << 20, capability=(9, 0))
L4 = GPU(name="L4", memory=23034 << 20, capability=(8, 9))
SMI = """\
0, GPU-aaaa1111, NVIDIA H100 80GB HBM3, 81559, 9.0
1, GPU-bbbb2222, NVIDIA H100 80GB HBM3, 81559, 9.0
2, GPU-cccc3333, NVIDIA L4, 23034, 8.9
3, GPU-dddd4444, NVIDIA L4, [N/A], 8.9
"""


def chips() -> list[Chip]:
    return parse_smi(SMI)


def test_nvidia_smi_is_read_and_a_broken_chip_left_out() -> None:
    assert [chip.gpu for chip in chips()] == [H100, H100, L4]
    assert parse_smi("") == parse_smi("No devices were found\n") == []


def test_the_largest_group_of_equal_chips_is_offered() -> None:
    found, notes = grouped(chips())
    assert found is not None
    assert (found.gpu, found.count, found.memory) == (H100, 2, 2 * 81559 << 20)
    assert "1x L4" in notes[0]
    assert grouped([])[0] is None


@pytest.mark.parametrize(
    ("wish", "indexes"),
    [
        (None, [0, 1, 2]),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("GPU-bbbb", [1]),
        ("", []),
        ("-1", []),
        ("0,-1,1", [0]),
        (" 1 , 2 ", [1, 2]),
    ],
)
def test_cuda_visible_devices_is_kept(wish: str | None, indexes: list[int]) -> None:
    assert [chip.index for chip in visible(chips(), wish)] == indexes


@pytest.mark.parametrize(
    ("driver", "ours"),
    [("NVIDIA GeForce RTX 4090", "RTX 4090"), ("Tesla T4", "Tesla T4"), ("NVIDIA", "NVIDIA")],
)
def test_names_lose_their_maker(driver: str, ours: str) -> None:
    assert chip_name(driver) == ours


def test_without_nvml_the_drivers_program_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<END\n{SMI}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert [chip.gpu for chip in hardware._by_smi()] == [H100, H100, L4]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert hardware._by_smi() == []


def test_a_containers_memory_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "CGROUP_LIMIT", tmp_path / "memory.max")
    whole = hardware.survey().memory
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.survey().memory == whole > GIB // 4
    (tmp_path / "memory.max").write_text(f"{GIB // 8}\n")
    assert hardware.survey().memory == GIB // 8


def test_this_computer_is_one_offer(tmp_path: Path) -> None:
    (offer,) = anyio.run(LocalProvider(tmp_path).list_offers, Want())
    assert (offer.kind, offer.per_hour) == (OfferKind.OWNED, None)
    assert offer.cpus >= 1
    account = anyio.run(LocalProvider(tmp_path).check)
    assert f"{offer.cpus} CPUs" in account.notes[0]
