"""Settings: which place wins, what is told about it, and what happens to values that cannot be meant."""

from __future__ import annotations

import stat
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from spotinfer.client.durations import format_duration, parse_duration
from spotinfer.client.settings import Origin, Settings, store_secret, without_password
from spotinfer.core.errors import ConfigError, MissingCredentials, UnknownName
from spotinfer.core.secret import Secret


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder of its own and none of the variables that settings read; returns the path of the config file."""
    import os

    for name in list(os.environ):
        if name.startswith(("SPOTINFER_", "RUNPOD_", "VAST_", "LAMBDA_", "AWS_", "HF_", "HUGGING_FACE", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "config.toml"
    monkeypatch.setenv("SPOTINFER_CONFIG_FILE", str(config))
    # A keyring without a backend: the real package, no daemon.
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    return config


def test_defaults(tmp_path: Path) -> None:
    settings = Settings.load()
    assert settings.home == tmp_path / ".local/state/spotinfer"
    assert settings.ledger == str(settings.home / "ledger.db")
    assert settings.idle_timeout == timedelta(minutes=30)
    assert settings.max_age == timedelta(hours=24)
    assert settings.runpod_api_key is None
    assert {source.origin for source in settings.sources.values()} == {Origin.DEFAULT}


def test_each_place_wins_over_the_later_ones(clean: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean.write_text('runpod_api_key = "from-toml"\nbudget = 1\n')
    settings = Settings.load()
    assert settings.runpod_api_key == Secret("from-toml")
    assert str(settings.sources["runpod_api_key"]) == f"config file: {clean}, line 1"
    assert (settings.budget, settings.sources["budget"].where) == (Decimal(1), f"{clean}, line 2")

    own = tmp_path / ".runpod" / "config.toml"
    own.parent.mkdir()
    own.write_text('apikey = "from-runpod"\n')
    settings = Settings.load()
    assert settings.runpod_api_key == Secret("from-runpod")
    assert str(settings.sources["runpod_api_key"]) == f"cloud's own file: {own}"

    monkeypatch.setenv("RUNPOD_API_KEY", "from-variable")
    assert Settings.load().runpod_api_key == Secret("from-variable")
    monkeypatch.setenv("SPOTINFER_RUNPOD_API_KEY", "from-our-variable")
    settings = Settings.load()
    assert settings.runpod_api_key == Secret("from-our-variable")
    assert settings.sources["runpod_api_key"].where == "SPOTINFER_RUNPOD_API_KEY"

    settings = Settings.load(runpod_api_key="from-argument", budget="2.50")
    assert settings.runpod_api_key == Secret("from-argument")
    assert settings.budget == Decimal("2.50")
    assert settings.sources["budget"].origin is Origin.ARGUMENT


@pytest.mark.parametrize(
    ("name", "path", "text"),
    [
        ("runpod_api_key", ".runpod/config.toml", '[default]\napi_key = "k-123"\n'),
        ("vast_api_key", ".config/vastai/vast_api_key", "k-123\n"),
        ("vast_api_key", ".vast_api_key", "k-123"),
        ("lambda_api_key", ".lambda_cloud/lambda_keys", "api_key = k-123\n"),
        ("hf_token", ".cache/huggingface/token", "k-123"),
    ],
)
def test_the_clouds_own_files(tmp_path: Path, name: str, path: str, text: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    settings = Settings.load()
    assert getattr(settings, name) == Secret("k-123")
    assert settings.sources[name].where == str(file)


def test_a_strange_file_of_a_cloud_is_no_error_of_ours(tmp_path: Path) -> None:
    file = tmp_path / ".runpod/config.toml"
    file.parent.mkdir()
    file.write_bytes(b"\xff\xfe no toml")
    assert Settings.load().runpod_api_key is None
    file.write_text("apikey = [")
    assert Settings.load().runpod_api_key is None


def test_no_secret_is_shown(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAST_API_KEY", "very-secret")
    monkeypatch.setenv("SPOTINFER_LEDGER", "postgresql://me:very-secret@db.example/ledger")
    settings = Settings.load()
    assert settings.ledger == "postgresql://me:very-secret@db.example/ledger"
    assert "very-secret" not in repr(settings)
    assert settings.shown("vast_api_key") == "***"
    assert settings.shown("ledger") == "postgresql://me:***@db.example/ledger"
    assert settings.shown("idle_timeout") == "30m"
    assert settings.shown("budget") is None
    assert without_password("postgresql://me@host/db") == "postgresql://me@host/db"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('idle_timout = "5m"', "did you mean 'idle_timeout'"),
        ('\nidle_timeout = "soon"', "line 2: idle_timeout must be a duration"),
        ("budget = -1", "line 1: budget must not be negative"),
        ("engine = 7", "line 1: engine must be a text"),
        ('progress = "plane"', "did you mean 'plain'"),
        ('ledger = "mysql://host/db"', "cannot be a mysql:// URL"),
        ("providers = 3", "providers must be"),
        ("options = 3", "one table for each provider"),
        ('in_keyring = ["runpod_key"]', "did you mean 'runpod_api_key'"),
        ('in_keyring = "runpod_api_key"', "must be a list"),
        ("x = 1\nbudget = ]", "line 2"),
        ("hf_token = 5", "line 1: hf_token must be a text"),
    ],
)
def test_a_wrong_file_names_itself_and_the_line(clean: Path, text: str, message: str) -> None:
    clean.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Settings.load()
    assert message in caught.value.message
    if "did you mean 'plain'" not in message:
        assert str(clean) in caught.value.message
    assert caught.value.hint


def test_an_unreadable_file(clean: Path) -> None:
    clean.mkdir()
    with pytest.raises(ConfigError, match="cannot read"):
        Settings.load()


def test_a_file_that_is_no_text(clean: Path) -> None:
    clean.write_bytes(b"budget = \xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        Settings.load()


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOTINFER_MAX_AGE", "-3h")
    with pytest.raises(ConfigError, match="SPOTINFER_MAX_AGE: max_age must be"):
        Settings.load()


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOTINFER_MAX_AGE", "")
    assert Settings.load().max_age == timedelta(hours=24)


def test_no_limit_must_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOTINFER_MAX_AGE", "never")
    settings = Settings.load(idle_timeout=None, home=None)
    assert (settings.idle_timeout, settings.max_age) == (None, None)
    assert settings.sources["idle_timeout"].origin is Origin.ARGUMENT
    assert settings.sources["home"].origin is Origin.DEFAULT


def test_an_unknown_argument() -> None:
    with pytest.raises(UnknownName, match="did you mean 'budget'"):
        Settings.load(budgett=1)


def test_enabled_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = ["aws", "local", "mycloud", "runpod", "simulated", "vast"]
    assert Settings.load().enabled_providers(installed) == ("local", "mycloud")
    assert Settings.load(vast_api_key="k").enabled_providers(installed) == ("local", "mycloud", "vast")
    assert Settings.load(provider="simulated").enabled_providers(installed) == ("local", "mycloud", "simulated")
    assert Settings.load(providers="vast, local").enabled_providers(installed) == ("vast", "local")
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert Settings.load().enabled_providers(installed) == ("aws", "local", "mycloud")
    with pytest.raises(UnknownName, match="did you mean 'runpod'"):
        Settings.load(providers=["runpd"]).enabled_providers(installed)


def test_provider_options(clean: Path, tmp_path: Path) -> None:
    clean.write_text('[options.mycloud]\nregion = "north"\n')
    settings = Settings.load(home=tmp_path / "state", local_price_per_hour=0.4, vast_api_key="k")
    assert settings.provider_options("local") == {
        "home": tmp_path / "state" / "local",
        "price_per_hour": Decimal("0.4"),
    }
    assert settings.provider_options("vast") == {"api_key": Secret("k")}
    assert settings.provider_options("mycloud") == {"region": "north"}
    with pytest.raises(MissingCredentials, match="runpod"):
        settings.provider_options("runpod")


def test_a_stored_key_is_private_and_the_file_is_kept(clean: Path) -> None:
    clean.write_text('# mine\nbudget = "2"\nvast_api_key = "old"\n\n[options.local]\nprice_per_hour = 1\n')
    source = store_secret(Settings.load(), "vast_api_key", Secret('new"\\\n\x01'))
    assert source.origin is Origin.TOML
    assert stat.S_IMODE(clean.stat().st_mode) == 0o600
    assert "# mine" in clean.read_text()
    settings = Settings.load()
    assert settings.vast_api_key == Secret('new"\\\n\x01'.strip())
    assert settings.budget == Decimal(2)
    assert settings.provider_options("local")["price_per_hour"] == 1


def test_the_config_folder_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPOTINFER_CONFIG_FILE", str(tmp_path / "file" / "config.toml"))
    with pytest.raises(ConfigError, match="cannot write"):
        store_secret(Settings.load(), "vast_api_key", Secret("k"))


def test_a_key_in_the_keyring_is_not_fetched_before_it_is_used(clean: Path) -> None:
    clean.write_text('in_keyring = ["runpod_api_key"]\n')
    settings = Settings.load()
    assert settings.sources["runpod_api_key"].origin is Origin.KEYRING
    assert settings.enabled_providers(["local", "runpod"]) == ("local", "runpod")
    from importlib.util import find_spec

    if find_spec("keyring") is None:
        with pytest.raises(ConfigError, match="not installed"):
            _ = settings.runpod_api_key
    else:
        assert settings.runpod_api_key is None


KEYRING = """
import json, pathlib
from . import errors
FILE = pathlib.Path(__file__).with_name("kept.json")
class Backend:
    priority = 5
def get_keyring():
    return Backend()
def get_password(service, name):
    if FILE.with_name("locked").exists():
        raise errors.KeyringError("locked")
    return json.loads(FILE.read_text()).get(service + "/" + name) if FILE.exists() else None
def set_password(service, name, value):
    FILE.write_text(json.dumps({service + "/" + name: value}))
"""


def test_a_key_goes_into_the_keyring_where_there_is_one(
    clean: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for the package `keyring`, whose real backends need a desktop."""
    package = tmp_path / "site" / "keyring"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(KEYRING)
    (package / "errors.py").write_text("class KeyringError(Exception): ...\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "keyring"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(package.parent)

    clean.write_text('vast_api_key = "old"\n')
    source = store_secret(Settings.load(), "vast_api_key", Secret("new"))
    assert source.origin is Origin.KEYRING
    assert clean.read_text() == 'in_keyring = ["vast_api_key"]\n'
    settings = Settings.load()
    assert settings.is_set("vast_api_key")
    (package / "locked").touch()
    with pytest.raises(ConfigError, match="cannot be opened"):
        _ = settings.vast_api_key
    (package / "locked").unlink()
    assert settings.vast_api_key == Secret("new")
    for name in ("keyring", "keyring.errors"):
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("10m", 600),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("90", 90),
        (90, 90),
        (0.5, 0.5),
        ("1.5h", 5400),
        ("2d", 172800),
        (timedelta(minutes=1), 60),
    ],
)
def test_durations(given: object, seconds: float) -> None:
    assert parse_duration(given) == timedelta(seconds=seconds)


@pytest.mark.parametrize("given", ["", "ten minutes", "10x", "m", -5, "-5", 0, "0s", True, [], float("nan"), 1e300])
def test_no_durations(given: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_duration(given, what="idle_timeout")
    assert "idle_timeout" in caught.value.message
    assert caught.value.hint is not None
    assert '"10m"' in caught.value.hint


def test_no_limit() -> None:
    assert parse_duration(None) is None
    assert parse_duration("never") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.44, "0.4s"), (3, "3s"), (59.6, "1m"), (61, "1m1s"), (5400, "1h30m"), (90000, "1d1h"), (-5, "-5s")],
)
def test_shown_durations(seconds: float, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text
