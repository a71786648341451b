"""Names to classes, over real distributions on a real path."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spotinfer.core.clock import WallClock
from spotinfer.core.errors import MissingExtra, PluginError, UnknownName
from spotinfer.core.protocols import Engine, Provider
from spotinfer.providers import registry
from spotinfer.providers.local.adapter import LocalProvider

Install = Callable[..., None]

PLUGIN = """
from spotinfer.core.model import Capabilities

class Cloud:
    name = {name!r}
    api = {api}
    capabilities = Capabilities()

    @classmethod
    def from_options(cls, options, *, clock):
        return cls()

not_a_class = Cloud()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a distribution with one provider on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(distribution: str, name: str, value: str, *, code: str = "", group: str = registry.PROVIDERS) -> None:
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
        if code:
            (tmp_path / f"{value.partition(':')[0]}.py").write_text(code)
        monkeypatch.delitem(sys.modules, value.partition(":")[0], raising=False)

    return put


def test_our_own_take_the_same_path() -> None:
    assert {"local", "simulated"} <= set(registry.provider_names())
    assert {"vllm", "llamacpp"} <= set(registry.engine_names())
    assert registry.load_provider("local") is LocalProvider
    for name in ("local", "simulated"):
        provider = registry.load_provider(name).from_options({}, clock=WallClock())
        assert isinstance(provider, Provider)
        assert provider.name == name


@pytest.mark.parametrize("name", ["vllm", "llamacpp"])
def test_our_engines_load(name: str) -> None:
    engine = registry.load_engine(name)()
    assert isinstance(engine, Engine)
    assert engine.name == name


def test_a_plug_in_is_found(install: Install) -> None:
    install("spotinfer-acme", "acme", "acme_ok:Cloud", code=PLUGIN.format(name="acme", api=1))
    assert "acme" in registry.provider_names()
    assert registry.load_provider("acme").api == 1


def test_an_unknown_name_says_what_was_meant() -> None:
    with pytest.raises(UnknownName, match="no provider is called 'locla' \\(did you mean 'local'\\?\\)"):
        registry.load_provider("locla")
    with pytest.raises(UnknownName, match="no engine is called 'vlm' \\(did you mean 'vllm'\\?\\)"):
        registry.load_engine("vlm")


def test_a_name_claimed_twice_names_both(install: Install) -> None:
    install("spotinfer-mine", "local", "mine_local:Cloud", code=PLUGIN.format(name="local", api=1))
    with pytest.raises(PluginError, match=r"'local' is claimed by (spotinfer-mine and spotinfer|spotinfer and spot.*)"):
        registry.load_provider("local")
    assert registry.load_provider("simulated").name == "simulated"


@pytest.mark.parametrize(
    ("code", "target", "message"),
    [
        ("import no_such_module_at_all", "Cloud", "cannot be imported: ModuleNotFoundError"),
        ("raise RuntimeError('no luck')", "Cloud", "cannot be imported: RuntimeError: no luck"),
        ("class Other: pass", "Cloud", "cannot be imported: AttributeError"),
        ("class Cloud: name = 'acme'", "Cloud", "lacks api, capabilities, from_options"),
        (PLUGIN.format(name="acme", api=1), "not_a_class", "is not a class"),
        (PLUGIN.format(name="other", api=1), "Cloud", "calls itself 'other'"),
        (PLUGIN.format(name="acme", api=2), "Cloud", "speaks version 2 of the protocol, not 1"),
    ],
)
def test_a_broken_plug_in_fails_when_asked_for(install: Install, code: str, target: str, message: str) -> None:
    install("spotinfer-acme", "acme", f"acme_broken:{target}", code=code)
    assert "acme" in registry.provider_names()
    with pytest.raises(PluginError, match=message) as caught:
        registry.load_provider("acme")
    assert "spotinfer-acme" in caught.value.message


def test_a_cause_is_kept_and_our_own_errors_pass(install: Install) -> None:
    install("spotinfer-bad", "bad", "bad_import:Cloud", code="import no_such_module_at_all")
    with pytest.raises(PluginError) as caught:
        registry.load_provider("bad")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    lacking = "from spotinfer.core.errors import MissingExtra\nraise MissingExtra('acme', 'aws')"
    install("spotinfer-lacking", "lacking", "lacking_extra:Cloud", code=lacking)
    with pytest.raises(MissingExtra):
        registry.load_provider("lacking")


def test_nothing_is_looked_up_at_import() -> None:
    program = (
        "import sys, spotinfer.providers.registry as r; "
        "print([m for m in ('importlib.metadata', 'psutil', 'anyio', 'asyncio') if m in sys.modules]); "
        "r.provider_names(); print([m for m in sys.modules if m.startswith('spotinfer.providers.local')])"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, env=_path())
    assert (done.stdout.split("\n")[:2], done.stderr) == (["[]", "[]"], "")


def _path() -> dict[str, str]:
    """Without site (whose editable installs import importlib.metadata by themselves), but with everything to import."""
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
