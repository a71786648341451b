"""What a user may add to vLLM's command line, and what not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from spotinfer.core.errors import ConfigError
from spotinfer.core.model import EngineSettings, Model
from spotinfer.serving.vllm import OURS, VllmEngine

HUB = Model(source="a/b", served_name="a/b", format="hub")
RENTED = SimpleNamespace(gpus=1, local=False)


def argv(*extra: str) -> tuple[str, ...]:
    return VllmEngine().command(HUB, EngineSettings(extra=extra), RENTED, "sk-test").argv


@pytest.mark.parametrize("option", [*OURS, "--ssl-cert-reqs=0", "--ssl_cert_reqs", "--ssl-cert-r", "--api_key=x"])
def test_options_that_decide_who_gets_in_cannot_be_replaced(option: str) -> None:
    with pytest.raises(ConfigError, match="itself") as caught:
        argv("--max-num-seqs", "8", option, "0")
    assert caught.value.hint


def test_all_others_are_passed_on_as_they_are() -> None:
    extra = ("--max-num-seqs", "8", "--tensor_parallel_size=2", "-O3", "--enable-ssl-refresh", "--", "host")
    assert argv(*extra)[-len(extra) :] == extra
