from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import ClassVar

import pytest

from spotinfer.core.errors import ConfigError, MissingExtra, ServerError, StartFailed, UnknownName
from spotinfer.core.model import EngineCommand, EngineSettings, MetricNames, Model, Phase
from spotinfer.core.protocols import Engine, Host
from spotinfer.serving.choice import choose_engine
from spotinfer.serving.llamacpp import NOT_INSTALLED, LlamaCppEngine
from spotinfer.serving.vllm import VllmEngine

TINY = Model(source="tiny", served_name="tiny", format="tiny")
GGUF = Model(source="m.gguf", served_name="m", format="gguf", path="/m.gguf")
HUB = Model(source="a/b", served_name="a/b", format="hub")
REMOTE, GPU, CPU = (SimpleNamespace(local=local, gpus=gpus) for local, gpus in ((False, 1), (True, 1), (True, 0)))
NO_VLLM = "vLLM is not installed"


class Fixed:
    """An engine that serves what it was told to, here, there or nowhere."""

    name: ClassVar[str] = "fixed"
    metrics_path: ClassVar[str] = "/metrics"
    closes_streams: ClassVar[bool] = False
    metrics: ClassVar[MetricNames] = VllmEngine.metrics

    def __init__(self, *formats: str, missing: str | None = None, remote: bool = False) -> None:
        self.formats, self.missing, self.remote = formats, missing, remote

    def unavailable(self, model: Model, host: Host) -> str | None:
        if model.format not in self.formats:
            return f"does not read {model.format}"
        if not host.local:
            return None if self.remote else "here only"
        return self.missing

    def command(self, model: Model, settings: EngineSettings, host: Host, api_key: str) -> EngineCommand:
        return EngineCommand(argv=("true",))

    def phase(self, line: str) -> tuple[Phase, str] | None:
        return None

    def diagnose(self, log: Sequence[str], exit_code: int | None) -> ServerError:
        return StartFailed("it ended")


def engines(*, vllm: bool = True, llamacpp: bool = True, **others: Engine) -> dict[str, Engine]:
    return {
        "llamacpp": Fixed("tiny", "gguf", missing=None if llamacpp else NOT_INSTALLED),
        "vllm": Fixed("tiny", "hub", remote=True, missing=None if vllm else NO_VLLM),
        **others,
    }


@pytest.mark.parametrize(
    ("model", "host", "vllm", "chosen"),
    [
        (HUB, REMOTE, False, "vllm"),
        (GGUF, CPU, True, "llamacpp"),
        (GGUF, GPU, True, "llamacpp"),
        (HUB, GPU, True, "vllm"),
        (HUB, CPU, True, "vllm"),
        (TINY, GPU, True, "vllm"),
        (TINY, CPU, True, "llamacpp"),
        (TINY, CPU, False, "llamacpp"),
        (TINY, GPU, False, "llamacpp"),
    ],
)
def test_the_rule(model: Model, host: Host, vllm: bool, chosen: str) -> None:
    here = engines(vllm=vllm)
    choice = choose_engine(here, model, host)
    assert choice.engine is here[chosen]
    assert choice.reason
    assert set(choice.others) == {"vllm", "llamacpp"} - {chosen}
    assert all(choice.others.values())


def test_a_gpu_without_vllm_is_worth_a_word() -> None:
    choice = choose_engine(engines(vllm=False), TINY, GPU)
    assert "vLLM would be faster" in choice.reason
    assert NO_VLLM in choice.reason


def test_a_name_wins_over_the_rule() -> None:
    here = engines()
    assert choose_engine(here, TINY, GPU, "llamacpp").engine is here["llamacpp"]
    assert choose_engine(here, TINY, CPU, "vllm").reason == "you named it"


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'vllm'"):
        choose_engine(engines(), TINY, CPU, "vlm")


def test_a_named_engine_that_cannot_is_an_error_with_its_reason() -> None:
    with pytest.raises(ConfigError, match="does not read gguf"):
        choose_engine(engines(), GGUF, CPU, "vllm")


def test_plugins_come_last_but_count() -> None:
    here = engines(plugin=Fixed("onnx", "tiny"))
    assert choose_engine(here, TINY, CPU).engine is here["llamacpp"]
    assert choose_engine(here, Model(source="x", served_name="x", format="onnx"), CPU).engine is here["plugin"]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(MissingExtra, match=r"spotinfer\[local\]"):
        choose_engine(engines(llamacpp=False, vllm=False), TINY, CPU)
    with pytest.raises(ConfigError, match=NO_VLLM) as caught:
        choose_engine(engines(vllm=False), HUB, CPU)
    assert "llamacpp: does not read hub" in caught.value.message
    with pytest.raises(ConfigError, match="none is installed"):
        choose_engine({}, TINY, CPU)


@pytest.mark.parametrize(
    ("model", "host", "says"),
    [(GGUF, REMOTE, "this computer only"), (HUB, CPU, "needs a GGUF file"), (GGUF, CPU, None)],
)
def test_llamacpp_says_what_it_cannot(model: Model, host: Host, says: str | None) -> None:
    reason = LlamaCppEngine().unavailable(model, host)
    assert reason is None if says is None else says in str(reason)


def test_vllm_says_what_it_cannot() -> None:
    engine = VllmEngine()
    assert "GGUF" in str(engine.unavailable(GGUF, CPU))
    assert "on this computer" in str(engine.unavailable(TINY, REMOTE))
    assert engine.unavailable(HUB, REMOTE) is None


def test_both_are_engines() -> None:
    assert isinstance(LlamaCppEngine(), Engine)
    assert isinstance(VllmEngine(), Engine)
