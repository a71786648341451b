from __future__ import annotations

import copy
import pickle

import pytest

from spotinfer.core import errors
from spotinfer.core.secret import Secret

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


def test_the_tree_has_one_root_and_every_code_is_used_once() -> None:
    assert all(issubclass(kind, errors.SpotinferError) for kind in CLASSES)
    codes = [kind.code for kind in CLASSES]
    assert len(codes) == len(set(codes))


def test_every_leaf_of_the_tree_is_drawn_in_the_docstring() -> None:
    drawn = errors.__doc__ or ""
    families = {"ProviderError", "StartFailed"}
    for kind in CLASSES:
        if kind.__bases__[0].__name__ not in families:
            assert kind.__name__ in drawn or "…" in drawn, kind


def test_a_provider_error_says_by_its_class_how_to_react() -> None:
    assert errors.QuotaExceeded("no").reaction is errors.Reaction.SKIP_PROVIDER
    assert errors.NoCapacity("no").reaction is errors.Reaction.NEXT_OFFER
    assert errors.RateLimited("no", retry_after=3).reaction is errors.Reaction.RETRY_HERE
    assert errors.OutcomeUnknown("no").reaction is errors.Reaction.RECONCILE


def test_an_unknown_name_suggests_the_closest() -> None:
    error = errors.UnknownName("provider", "runpot", ["runpod", "vast"])
    assert "did you mean 'runpod'?" in str(error)
    assert error.hint == "known: runpod, vast"


def test_a_missing_extra_is_also_an_import_error() -> None:
    with pytest.raises(ImportError, match="spotinfer\\[aws\\]"):
        raise errors.MissingExtra("AWS", "aws")


def test_a_server_error_shows_the_tail_of_the_log() -> None:
    text = str(errors.StartFailed("it ended", log=[f"line {number}" for number in range(50)]))
    assert "line 49" in text
    assert "line 1\n" not in text


def test_a_secret_shows_itself_nowhere() -> None:
    secret = Secret("hunter2")
    shown = f"{secret} {secret!r} {secret!s} {[secret]} {secret:>20}"
    assert "hunter2" not in shown
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2") != Secret("other")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)
