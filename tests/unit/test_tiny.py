from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

import spotinfer.serving.tiny
from spotinfer.serving.gguf import read_facts
from spotinfer.serving.tiny import Format, cached_tiny, tiny_model, vocabulary
from spotinfer.serving.tiny.architecture import HIDDEN, STEER, STEER_PENALTY, STEER_VALUE, tensors

FORMATS: tuple[Format, ...] = ("safetensors", "gguf")
PINNED = {
    "safetensors": "34a783521a336a30e05ed4e82d2d05e4b116fccc92267485d0d7faef10362606",
    "gguf": "50a0c4003e3247ccea6ab09f367c0b3ffc571efc31a61518fdc56b91d9a0b95f",
}


def digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_seed_gives_the_same_bytes_in_every_version_of_python(tmp_path: Path, format: Format) -> None:
    first = tiny_model(tmp_path / "a" / "model", format)
    second = tiny_model(tmp_path / "b" / "model", format)
    assert digest(first) == digest(second)
    # Another digest here means: raise VERSION, or caches keep serving the old bytes.
    assert digest(first) == PINNED[format]


@pytest.mark.parametrize("format", FORMATS)
def test_another_seed_gives_another_model(tmp_path: Path, format: Format) -> None:
    first, second = (tiny_model(tmp_path / str(seed) / "model", format, seed=seed) for seed in (0, 1))
    assert digest(first) != digest(second)


@pytest.mark.parametrize("format", FORMATS)
def test_it_is_small_and_made_at_once(tmp_path: Path, format: Format) -> None:
    before = time.process_time()
    path = tiny_model(tmp_path / "model", format)
    assert time.process_time() - before < 0.7
    files = [path] if path.is_file() else list(path.iterdir())
    assert sum(file.stat().st_size for file in files) < 800_000


@pytest.mark.parametrize("format", FORMATS)
def test_an_existing_model_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path, format: Format) -> None:
    path = tiny_model(tmp_path / "model", format, seed=1)
    old = digest(path)
    assert digest(tiny_model(path, format)) != old
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        tiny_model(tmp_path / "file" / "model", "gguf")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        tiny_model(tmp_path / "folder", "gguf")  # a folder is not replaced by a file
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="safetensors, gguf, not 'onnx'"):
        tiny_model(tmp_path / "model", "onnx")  # type: ignore[arg-type]


@pytest.mark.parametrize("format", FORMATS)
def test_the_cache_makes_it_once(tmp_path: Path, format: Format) -> None:
    path = cached_tiny(tmp_path, format)
    made = path.stat().st_mtime_ns
    assert cached_tiny(tmp_path, format) == path
    assert path.stat().st_mtime_ns == made
    assert str(spotinfer.serving.tiny.VERSION) in path.name


def test_processes_that_fill_the_cache_at_once_agree(tmp_path: Path) -> None:
    code = "import sys; from spotinfer.serving.tiny import cached_tiny; print(cached_tiny(sys.argv[1], 'safetensors'))"
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) for _ in range(4)]
    answers = {process.communicate(timeout=20)[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(answers) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_the_folder_works_alone_with_the_standard_library(tmp_path: Path) -> None:
    home = Path(spotinfer.serving.tiny.__file__).parent
    shutil.copytree(home, tmp_path / "carried", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import carried; carried.tiny_model('m.gguf', 'gguf')"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, check=True, timeout=20)
    assert (tmp_path / "m.gguf").read_bytes() == tiny_model(tmp_path / "here.gguf", "gguf").read_bytes()


def test_public_name_is_loaded_on_use() -> None:
    code = "import sys, spotinfer.testing as t; assert 'spotinfer.serving.tiny' not in sys.modules; t.tiny_model"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20, env={**os.environ})


def test_unspeakable_tokens_are_out_of_reach() -> None:
    head = {tensor.name: tensor for tensor in tensors(0)}["lm_head.weight"]
    for number in range(vocabulary.SIZE):
        text = vocabulary.TOKENS[number] if number < len(vocabulary.TOKENS) else None
        printable = (
            text is not None and text not in vocabulary.SPECIAL and as_bytes(text).decode("latin-1").isprintable()
        )
        allowed = printable and text is not None and as_bytes(text).isascii()
        assert head.values[number * HIDDEN + STEER] == (0.0 if allowed else STEER_PENALTY)


def as_bytes(token: str) -> bytes:
    return bytes(vocabulary.ALPHABET.index(character) for character in token)


def test_no_layer_writes_the_feature_that_steers() -> None:
    for tensor in tensors(0):
        if tensor.name.endswith(("o_proj.weight", "down_proj.weight")):
            assert not any(tensor.values[STEER * tensor.columns : (STEER + 1) * tensor.columns])
        if tensor.name == "model.embed_tokens.weight":
            assert set(tensor.values[STEER :: tensor.columns]) == {STEER_VALUE}


def test_both_containers_hold_the_same_weights(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "folder", "safetensors", context=512)
    file = tiny_model(tmp_path / "model.gguf", "gguf", context=512)
    raw = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    start, end = header["lm_head.weight"]["data_offsets"]
    assert raw[8 + length + start : 8 + length + end] in file.read_bytes()
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == 512
    assert read_facts(file).context == 512
    assert read_facts(file).full_precision
