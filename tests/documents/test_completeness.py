"""What exists is documented: undocumented means red."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import spotinfer
from spotinfer.cli.commands import COMMANDS
from spotinfer.cli.parser import Parser
from spotinfer.client.options import LaunchOptions
from spotinfer.client.settings.fields import FIELDS
from spotinfer.core.errors import SpotinferError
from spotinfer.core.states import Cause, State
from spotinfer.ledger.sql.schema import metadata
from spotinfer.providers.registry import engine_names, provider_names
from spotinfer.serving.choice import RULE

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def text(page: str) -> str:
    return (REFERENCE / page).read_text()


def tree(cls: type[SpotinferError]) -> list[type[SpotinferError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in tree(child))]


@pytest.mark.parametrize("name", spotinfer.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    page = text("api.md") + text("errors.md")
    assert re.search(rf"^\.\. auto\w+:: spotinfer\.{name}$", page, re.MULTILINE), f"spotinfer.{name}"


@pytest.mark.parametrize("error", tree(SpotinferError), ids=lambda error: error.__name__)
def test_every_error_is_documented_with_its_code(error: type[SpotinferError]) -> None:
    if error.__module__ != "spotinfer.core.errors":
        pytest.skip("an error of a test")
    assert f"| `{error.__name__}` | `{error.code}` |" in text("errors.md")


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_setting_is_documented_with_its_variables(field: object) -> None:
    row = next(line for line in text("settings.md").splitlines() if line.startswith(f"| `{field.name}` |"))  # type: ignore[attr-defined]
    for variable in field.all_variables:  # type: ignore[attr-defined]
        assert f"`{variable}`" in row


@pytest.mark.parametrize("name", LaunchOptions.__annotations__)
def test_every_option_of_launch_says_what_it_is(name: str) -> None:
    source = (ROOT / "src/spotinfer/client/options.py").read_text()
    assert re.search(rf'^    {name}: .+\n    """', source, re.MULTILINE)


@pytest.mark.parametrize("table", metadata.tables)
def test_every_table_of_the_ledger_is_documented(table: str) -> None:
    assert f"`{table}`" in text("ledger.md")


@pytest.mark.parametrize("word", [*State, *Cause], ids=str)
def test_every_state_and_cause_is_documented(word: State | Cause) -> None:
    assert f"`{word.value}`" in text("ledger.md")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_with_its_options(name: str) -> None:
    page = text("command-line.md")
    assert re.search(rf"^\| `{name}\b", page, re.MULTILINE)
    parser = Parser(name, "")
    importlib.import_module(f"spotinfer.cli.{name}").options(parser)
    listed = re.findall(r"^  (-[^\s,]+(?:, --\S+)?)", parser.format_help(), re.MULTILINE)
    offered = {option for entry in listed for option in entry.split(", ")} - {"-h", "--help"}
    for option in offered:
        assert f"`{option}`" in page, option


def test_the_rule_for_engines_is_documented_as_it_is() -> None:
    assert RULE in text("engines.md")


@pytest.mark.parametrize("name", [*provider_names(), *engine_names()])
def test_every_provider_and_engine_is_documented(name: str) -> None:
    assert f"`{name}`" in text("engines.md")


def test_source_files_that_are_named_exist() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        for name in re.findall(r"`(\w+/[\w/]*\w+\.py)`", page.read_text()):
            assert (ROOT / "src" / "spotinfer" / name).exists() or (ROOT / name).exists(), f"{page.name}: {name}"
