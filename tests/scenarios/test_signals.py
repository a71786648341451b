"""Ctrl-C and SIGTERM in every phase of a launch by the command line: clean-up is waited for, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from support.worlds import machine_processes

pytestmark = pytest.mark.engine

PHASES = ["rent", "boot", "weights", "probe", "ready"]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "SPOTINFER_HOME": str(home), "SPOTINFER_PROGRESS": "plain", "PYTHONUNBUFFERED": "1"}


def spotinfer(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spotinfer.cli", *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def launch_and_signal(home: Path, phase: str, number: signal.Signals, *options: str) -> tuple[int, str]:
    """Start a launch and send the signal when its progress names the phase, or a later one where a quick launch left
    it out; its exit status and what it said.
    """
    moments = tuple(f": {name}: " for name in PHASES[PHASES.index(phase) :])
    said = []
    with launching(home, *options) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if any(moment in line for moment in moments):
                process.send_signal(number)
                break
        said.append(process.stderr.read())
        return process.wait(timeout=60), "".join(said)


@contextmanager
def launching(home: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A launch by the command line. Killed after a minute, so that a test that waits for a line in vain fails."""
    process = subprocess.Popen(
        [sys.executable, "-m", "spotinfer.cli", "launch", "tiny", "--name", "one", *options],
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        with process:
            yield process
    finally:
        watchdog.cancel()


def live_names(home: Path) -> list[str]:
    listed = spotinfer(home, "ls", "--json")
    assert listed.returncode == 0, listed.stderr
    return [server["name"] for server in json.loads(listed.stdout)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", PHASES)
def test_an_attached_launch_that_is_interrupted_leaves_nothing(
    tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    status, said = launch_and_signal(tmp_path, phase, number, "--attach")
    assert status == 128 + number, said
    assert machine_processes(tmp_path) == []
    assert live_names(tmp_path) == []
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", PHASES)
def test_a_detached_launch_that_is_interrupted_is_whole_or_nothing(
    tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    """Once it was ready the server is meant to stay; before that nothing may be left."""
    status, said = launch_and_signal(tmp_path, phase, number)
    live = live_names(tmp_path)
    assert "Traceback" not in said
    assert status in (0, 128 + number), said
    assert live == (["one"] if machine_processes(tmp_path) else []), said
    if ": ready: " not in said:
        assert live == []
    assert spotinfer(tmp_path, "terminate", "--all", "--yes").returncode == 0
    assert machine_processes(tmp_path) == []


def run_script(home: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_script_that_forgets_its_server_ends_it_at_exit(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import spotinfer
        server = spotinfer.launch("tiny")
        print(server.name)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert machine_processes(tmp_path) == []
    assert live_names(tmp_path) == []


def test_a_script_that_fails_ends_its_server(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import spotinfer
        server = spotinfer.launch("tiny")
        raise SystemExit("the user's own mistake")
        """,
    )
    assert done.returncode == 1
    assert machine_processes(tmp_path) == []


def test_ctrl_c_in_a_plain_script_cancels_and_waits_for_clean_up(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import os, signal, threading, time
        import spotinfer
        from pathlib import Path

        def interrupt_once_rented():
            while not list(Path(os.environ["SPOTINFER_HOME"]).glob("local/machines/*/agent/engine.log")):
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt_once_rented, daemon=True).start()
        try:
            spotinfer.launch("tiny")
            time.sleep(10)
        except KeyboardInterrupt:
            print("interrupted")
        """,
    )
    assert done.stdout.strip() == "interrupted", done.stderr
    assert machine_processes(tmp_path) == []
    assert live_names(tmp_path) == []


def test_a_forked_child_does_not_hang_and_does_not_end_its_parents_server(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # forking a process with threads is what is tried here
        import spotinfer
        with spotinfer.launch("tiny", name="parents") as server:
            child = os.fork()
            if child == 0:
                other = spotinfer.connect("parents")
                reply = other.client.completions.create(model=other.model, prompt="from the child", max_tokens=2)
                print("child:", reply.usage.completion_tokens, flush=True)
                other.close()
                sys.exit(0)  # runs atexit: must not end what the parent launched
            assert os.waitpid(child, 0)[1] == 0
            reply = server.client.completions.create(model=server.model, prompt="from the parent", max_tokens=3)
            print("parent:", reply.usage.completion_tokens, server.state)
            print("metered:", server.meter.snapshot().requests)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["child: 2", "parent: 3 ready", "metered: 2"]
    assert machine_processes(tmp_path) == []


def test_a_second_ctrl_c_stops_waiting_and_says_how_to_end_the_machine(tmp_path: Path) -> None:
    """The agent is frozen, so that its end cannot be confirmed; the user gets the command to end it later."""
    with launching(tmp_path, "--attach") as process:
        assert process.stderr is not None
        next(line for line in process.stderr if ": boot: " in line)
        frozen = machine_processes(tmp_path)
        for item in frozen:
            item.suspend()
        try:
            process.send_signal(signal.SIGINT)
            next(line for line in process.stderr if ": end: " in line)
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            assert process.wait(timeout=30) == 130
            assert "spotinfer terminate one" in rest
        finally:
            for item in frozen:
                if psutil.pid_exists(item.pid):
                    item.resume()
    assert spotinfer(tmp_path, "reap", "--yes").returncode == 0
    assert machine_processes(tmp_path) == []
    assert live_names(tmp_path) == []
