from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from spotinfer.core.errors import ConfigError, UnknownName
from spotinfer.serving.gguf import NotGguf, is_gguf, read_facts
from spotinfer.serving.models import resolve_model
from spotinfer.serving.tiny import tiny_model


def test_a_hub_model_keeps_its_name_and_revision() -> None:
    model = resolve_model("Qwen/Qwen3-8B", revision="abc123")
    assert (model.source, model.served_name, model.revision) == ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "abc123")
    assert (model.format, model.path, model.weights) == ("hub", None, None)


def test_tiny_becomes_a_file_only_for_an_engine(tmp_path: Path) -> None:
    assert resolve_model("tiny").path is None
    assert resolve_model("tiny").format == "tiny"
    file = resolve_model("tiny", engine_format="gguf", cache=tmp_path)
    folder = resolve_model("tiny", engine_format="safetensors", cache=tmp_path)
    assert (file.format, folder.format) == ("gguf", "safetensors")
    assert file.path is not None
    assert folder.path is not None
    assert file.weights == os.path.getsize(file.path)
    assert folder.weights == (Path(folder.path) / "model.safetensors").stat().st_size
    assert {file.served_name, folder.served_name, file.source} == {"tiny"}


def test_a_cache_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        resolve_model("tiny", engine_format="gguf", cache=tmp_path / "file")


def test_a_folder_is_served_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    model = resolve_model("my-model")
    assert (model.path, model.served_name, model.format) == (str(folder.resolve()), "my-model", "safetensors")
    assert model.weights == (folder / "model.safetensors").stat().st_size


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    file = tiny_model(tmp_path / "odd.name", "gguf")
    assert resolve_model(file).format == "gguf"
    assert resolve_model(file).served_name == "odd"
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ConfigError, match="not a GGUF file"):
        resolve_model(tmp_path / "text.gguf")


def test_the_parts_of_a_split_file_count_together(tmp_path: Path) -> None:
    whole = tiny_model(tmp_path / "big-00001-of-00002.gguf", "gguf")
    (tmp_path / "big-00002-of-00002.gguf").write_bytes(b"GGUF" + bytes(96))
    (tmp_path / "other-00002-of-00002.gguf").write_bytes(b"GGUF" + bytes(996))
    model = resolve_model(whole)
    assert model.weights == whole.stat().st_size + 100
    assert model.served_name == "big"


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model(tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/model").path == str((tmp_path / "model").resolve())


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        resolve_model(tmp_path / "empty")
    tiny_model(tmp_path / "empty" / "m.gguf", "gguf")
    with pytest.raises(ConfigError, match=r"name the file: .*m\.gguf"):
        resolve_model(tmp_path / "empty")
    (tiny_model(tmp_path / "bare") / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights"):
        resolve_model(tmp_path / "bare")


@pytest.mark.parametrize("name", ["./lama", "lama", "lama.gguf", "../x/lama", "~/no/lama", "", "a b", "a/b/c", "-x"])
def test_an_unknown_name_is_a_typed_error_with_a_hint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName) as caught:
        resolve_model(name)
    assert "config.json" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tinny", "tiny"),
        ("llama-8b", "llama-8b.gguf"),
        ("./qwen-8", "./qwen-8b"),
        ("./llama-8b.ggf", "./llama-8b.gguf"),
    ],
)
def test_did_you_mean(name: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model("qwen-8b")
    tiny_model("llama-8b.gguf", "gguf")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UnknownName, match=f"did you mean '{meant}'"):
        resolve_model(name)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def test_facts_of_a_file_written_by_others(tmp_path: Path) -> None:
    """Keys of every kind, arrays of both kinds before what is looked for, half precision."""
    pairs = [
        pair(b"general.languages", 9, struct.pack("<IQ", 8, 2) + text(b"en") + text(b"de")),
        pair(b"general.numbers", 9, struct.pack("<IQ4d", 12, 4, 1, 2, 3, 4)),
        pair(b"general.flag", 7, b"\1"),
        pair(b"general.architecture", 8, text(b"qwen3")),
        pair(b"general.file_type", 4, struct.pack("<I", 1)),
        pair(b"qwen3.context_length", 10, struct.pack("<Q", 40960)),
        pair(b"tokenizer.ggml.model", 99, b""),
    ]
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs))
    facts = read_facts(path)
    assert (facts.context, facts.full_precision) == (40960, False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GG",
        b"PK\3\4" + bytes(100),
        b"GGUF",
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 5) + text(b"key"),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair(b"key", 77, b""),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63) + b"key",
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + pair(b"key", 9, struct.pack("<IQ", 4, 2**62)),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"\xff\xfe"),
    ],
)
def test_broken_files_are_told_from_good_ones(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(NotGguf):
        read_facts(path)
    assert is_gguf(path) == data.startswith(b"GGUF")
    assert not is_gguf(tmp_path / "none")
