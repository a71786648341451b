"""The public names: lazy, written once, complete; and both faces of each class alike."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import spotinfer
from spotinfer.cli.commands import COMMANDS

ROOT = Path(spotinfer.__file__).parent
FACES = [("Client", "AsyncClient"), ("Server", "AsyncServer")]
RENAMED = {"close": "aclose", "__enter__": "__aenter__", "__exit__": "__aexit__"}
RETURNS = {"Server": "AsyncServer", "Client": "AsyncClient"}


def modules() -> Iterator[str]:
    for module in pkgutil.walk_packages(spotinfer.__path__, "spotinfer."):
        if not module.name.endswith("__main__") and ".launchers." not in module.name:
            yield module.name


@pytest.mark.parametrize("name", spotinfer.__all__)
def test_every_public_name_loads_and_stays(name: str) -> None:
    value = getattr(spotinfer, name)
    assert value is not None
    assert vars(spotinfer)[name] is value


def test_dir_shows_public_names_before_they_are_loaded() -> None:
    assert set(spotinfer.__all__) <= set(dir(spotinfer))
    assert spotinfer.__all__ == sorted(set(spotinfer.__all__))


def test_names_are_written_once() -> None:
    """The block for type checkers is the only list: no second one can differ from it."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == spotinfer.__all__
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not strings & set(spotinfer.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lunch'"):
        spotinfer.lunch  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", list(modules()))
def test_every_module_says_what_it_is(name: str) -> None:
    source = importlib.util.find_spec(name)
    assert source is not None
    assert source.origin is not None
    tree = ast.parse(Path(source.origin).read_text())
    if name not in {f"spotinfer.cli.{command}" for command in COMMANDS}:  # there the command's help says it
        assert not tree.body or ast.get_docstring(tree), f"{name} has no docstring"


def public(cls: type) -> dict[str, object]:
    special = {"__enter__", "__exit__", "__aenter__", "__aexit__"}
    found = {}
    for base in cls.__mro__[:-1]:
        for name, value in vars(base).items():
            if not name.startswith("_") or name in special:
                found.setdefault(name, value)
    return found


@pytest.mark.parametrize(("sync", "other"), FACES)
def test_both_faces_have_the_same_names(sync: str, other: str) -> None:
    names = {RENAMED.get(name, name) for name in public(getattr(spotinfer, sync))}
    assert names == set(public(getattr(spotinfer, other)))


def parameters(function: object) -> list[tuple[str, object, object, object]]:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    return [(p.name, p.kind, p.default, p.annotation) for p in signature.parameters.values()]


@pytest.mark.parametrize(("sync", "other"), FACES)
def test_both_faces_have_the_same_signatures(sync: str, other: str) -> None:
    async_names = public(getattr(spotinfer, other))
    for name, function in public(getattr(spotinfer, sync)).items():
        if not inspect.isfunction(function):
            continue
        twin = async_names[RENAMED.get(name, name)]
        assert parameters(function) == parameters(twin), name
        returned, wanted = (inspect.signature(f).return_annotation for f in (function, twin))  # type: ignore[arg-type]
        if (sync, name) == ("Client", "launch"):
            assert (returned, wanted) == ("Server", "Launching")
        else:
            assert RETURNS.get(returned, returned) == wanted, name


@pytest.mark.parametrize("name", ["launch", "connect", "plan"])
def test_module_functions_have_the_same_signatures(name: str) -> None:
    assert parameters(getattr(spotinfer, name)) == parameters(getattr(spotinfer, f"a{name}"))
    assert parameters(getattr(spotinfer, name)) == parameters(getattr(spotinfer.Client, name))[1:]
