"""Progress on a pseudo-terminal, in a real notebook kernel, in a log, and not at all."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from spotinfer.client.display import listener
from spotinfer.client.display.board import Board, Outcome
from spotinfer.core.errors import UnknownName
from spotinfer.core.model import Phase, Progress

LAUNCH = """
import sys, time
from datetime import timedelta
from decimal import Decimal
from spotinfer.client.display import listener
from spotinfer.core.model import Phase, Progress

def run(progress="auto", *, pause=0.4, fail=False, report_late=False):
    with listener(progress) as report:
        for step, phase in enumerate([Phase.RENT, Phase.WEIGHTS, Phase.READY]):
            report(Progress(phase=phase, message=f"doing {phase}", elapsed=timedelta(0),
                            spent=Decimal("0.0001") * step, name="tiny-1f3a"))
            if fail and phase is Phase.WEIGHTS:
                raise SystemExit(3)
            time.sleep(pause)
    if report_late:
        report(Progress(phase=Phase.END, message="ended (idle)", elapsed=timedelta(0), name="tiny-1f3a"))
"""


def said(phase: Phase, message: str = "", spent: str | None = None) -> Progress:
    return Progress(
        phase=phase,
        message=message,
        elapsed=timedelta(0),
        spent=None if spent is None else Decimal(spent),
        name="tiny",
    )


class Hand:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


# --- the board -----------------------------------------------------------------------------------------------------


def test_phases_follow_each_other() -> None:
    hand = Hand()
    board = Board(hand)
    hand.now += 1
    board.take(said(Phase.RENT, "one"))
    hand.now += 2
    board.take(said(Phase.RENT, "two"))
    board.take(said(Phase.WEIGHTS, "loading"))
    hand.now += 3
    board.take(said(Phase.READY, "answers"))
    rent, weights, ready = board.rows()
    assert (rent.message, rent.outcome, rent.took(hand.now)) == ("two", Outcome.DONE, "3s")
    assert (weights.outcome, weights.took(hand.now)) == (Outcome.DONE, "3s")
    assert (ready.outcome, ready.took(hand.now)) == (Outcome.DONE, "6s")


def test_going_back_means_that_it_failed() -> None:
    board = Board(Hand())
    for phase in (Phase.RENT, Phase.BOOT, Phase.RENT, Phase.WEIGHTS, Phase.END):
        board.take(said(phase))
    board.close(failed=True)
    done, failed = Outcome.DONE, Outcome.FAILED
    assert [row.outcome for row in board.rows()] == [done, failed, done, failed, done]


def test_money_goes_on_between_two_reports_and_stops_at_the_end() -> None:
    hand = Hand()
    board = Board(hand)
    assert board.spent() == ""
    board.take(said(Phase.RENT, spent="0"))
    hand.now += 10
    board.take(said(Phase.WEIGHTS, spent="0.01"))
    assert board.spent() == "$0.0100"
    hand.now += 5
    assert board.spent() == "$0.0150"
    board.close(failed=False)
    hand.now += 100
    assert board.spent() == "$0.0100"


# --- a log ---------------------------------------------------------------------------------------------------------


def test_lines_for_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with listener("auto") as report:
        report(said(Phase.RENT, "local", "0"))
        report(said(Phase.RENT, "local, again"))
        report(said(Phase.WEIGHTS, "loading\n  much"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "spotinfer: tiny: rent: local (0s, $0.0000)",
        "spotinfer: tiny: weights: loading much (0s, $0.0000)",
    ]


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with listener("none") as report:
        report(said(Phase.RENT))
    report(said(Phase.END, "ended (idle)"))
    assert capsys.readouterr() == ("", "")


def test_the_end_of_a_server_is_told_later(capsys: pytest.CaptureFixture[str]) -> None:
    with listener("plain") as report:
        pass
    report(said(Phase.READY, "80% of the budget is used"))
    report(said(Phase.END, "ended (idle)"))
    assert capsys.readouterr().err == "spotinfer: tiny: ended (idle)\n"


def test_a_wrong_kind() -> None:
    with pytest.raises(UnknownName, match="did you mean 'plain'"), listener("plane"):
        pass


def test_a_closed_stream_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = (tmp_path / "closed").open("w")
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with listener("auto") as report:
        report(said(Phase.RENT))


def test_no_thread_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with listener("plain") as report:
            report(said(Phase.RENT))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not [thread for thread in threading.enumerate() if thread.name == "spotinfer-progress"]


# --- a terminal ----------------------------------------------------------------------------------------------------


def on_pty(code: str, *, columns: int = 100, **environ: str) -> tuple[int, list[tuple[float, str]], str]:
    """Exit status, what came on the terminal (stderr) and when, and stdout."""
    leader, follower = pty.openpty()
    environment = {"TERM": "xterm-256color", "COLUMNS": str(columns), **environ}
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH + code],
        stderr=follower,
        stdout=subprocess.PIPE,
        env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, **environment},
    )
    os.close(follower)
    chunks: list[tuple[float, str]] = []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([leader], [], [], 0.1)[0]:
            continue
        try:
            data = os.read(leader, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        chunks.append((time.monotonic(), data.decode()))
    os.close(leader)
    out, _ = process.communicate(timeout=10)
    return process.returncode, chunks, out.decode()


def last_frame(chunks: list[tuple[float, str]]) -> str:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "".join(text for _, text in chunks))
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return "\n".join(lines[-3:])


def test_a_live_terminal() -> None:
    status, chunks, out = on_pty("run(pause=1.2); print('data')")
    assert (status, out) == (0, "data\n")
    frame = last_frame(chunks).splitlines()
    assert [line.split()[:2] for line in frame] == [["✓", "rent"], ["✓", "weights"], ["✓", "ready"]]
    assert frame[-1].endswith("$0.0002")
    gaps = [after - before for (before, _), (after, _) in pairwise(chunks)]
    assert max(gaps) < 2.0, "no sign of life"
    assert len({mark for _, text in chunks for mark in text if "\u2800" <= mark <= "\u28ff"}) >= 3, "no spinner"


def test_a_failure_on_a_terminal() -> None:
    status, chunks, _ = on_pty("run(fail=True)")
    assert status == 3
    assert "✗  weights" in last_frame(chunks)


def test_no_color() -> None:
    _, chunks, _ = on_pty("run(pause=0.3)", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", "".join(text for _, text in chunks))


def test_a_dumb_terminal_gets_lines() -> None:
    _, chunks, _ = on_pty("run(pause=0)", TERM="dumb")
    text = "".join(text for _, text in chunks)
    assert "\x1b" not in text
    assert text.startswith("spotinfer: tiny-1f3a: rent: doing rent")


def test_what_is_over_at_once_draws_nothing() -> None:
    status, chunks, _ = on_pty("\nwith listener(): pass")
    assert (status, chunks) == (0, [])


def test_two_launches_share_the_screen() -> None:
    code = """
import threading
threads = [threading.Thread(target=run, kwargs={"pause": pause}) for pause in (0.2, 0.5)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    status, chunks, _ = on_pty(code)
    assert status == 0
    assert [line.split()[1] for line in last_frame(chunks).splitlines()] == ["rent", "weights", "ready"]


# --- a notebook ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_notebook(tmp_path: Path) -> None:
    """A real kernel. The launch runs in a worker thread, as the portal's does; the kernel's own loop goes on."""
    cell = """
import asyncio
ticks = 0
async def count():
    global ticks
    while True:
        ticks += 1
        await asyncio.sleep(0.05)
counter = asyncio.ensure_future(count())
await asyncio.to_thread(run, pause=1.0)
counter.cancel()
print(ticks > 30)
"""
    script = f"""
import json, nbformat
from nbclient import NotebookClient
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell({LAUNCH!r}), nbformat.v4.new_code_cell({cell!r})])
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
print(json.dumps([dict(output) for output in notebook.cells[1].outputs]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "IPYTHONDIR": str(tmp_path), "JUPYTER_PLATFORM_DIRS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout.splitlines()[-1])
    shown = [output for output in outputs if output["output_type"] == "display_data"]
    assert len(shown) == 1, "one output that is updated, not many"
    text = shown[0]["data"]["text/plain"].splitlines()
    assert [line.split()[:2] for line in text] == [["✓", "rent"], ["✓", "weights"], ["✓", "ready"]]
    assert "<table" in shown[0]["data"]["text/html"]
    assert [output["text"] for output in outputs if output["output_type"] == "stream"] == ["True\n"]
