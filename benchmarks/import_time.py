"""CPU milliseconds and modules that an import costs over a bare interpreter, beside `import openai`.

    python benchmarks/import_time.py [--rounds N] [--json]

Every round runs every case once in a new process, in turn, so that a slow moment of the machine meets all of them; the
figures are medians over the rounds. CPU is user plus system time of the child, as the kernel counts it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping

CORE = ("model", "protocols", "records", "states", "step", "errors", "clock", "money", "secret")
LS = "import sys; sys.argv = ['spotinfer', 'ls']\nfrom spotinfer.cli import main\nsys.exit(main())"
CASES: Mapping[str, str] = {
    "bare interpreter": "",
    "import spotinfer": "import spotinfer",
    "import spotinfer.core (all nouns)": "import " + ", ".join(f"spotinfer.core.{name}" for name in CORE),
    "spotinfer ls": LS,
    "import openai": "import openai",
}
LIMITS_MS = {"import spotinfer": 25.0, "import spotinfer.core (all nouns)": 60.0, "spotinfer ls": 500.0}
LIMITS_MODULES = {"import spotinfer": 60}
COUNT = "import sys, atexit; atexit.register(lambda: sys.stderr.write(f'\\n{len(sys.modules)}\\n'))\n"


def run_once(code: str, env: Mapping[str, str]) -> float:
    """CPU milliseconds of one child. Its own rusage comes from wait4, so that no other child is counted."""
    nowhere = subprocess.DEVNULL
    child = subprocess.Popen([sys.executable, "-c", code], env=env, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"this ended with {child.returncode}: {code!r}")
    return (usage.ru_utime + usage.ru_stime) * 1000


def count_modules(code: str, env: Mapping[str, str]) -> int:
    child = subprocess.run(
        [sys.executable, "-c", COUNT + code], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    return int(child.stderr.split()[-1])


def measure(rounds: int) -> list[dict[str, object]]:
    """One row a case, with the bare interpreter's own figures taken off the others."""
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "SPOTINFER_HOME": home, "SPOTINFER_PROGRESS": "none"}
        for code in CASES.values():  # writes the byte code, and the first ledger
            run_once(code, env)
        times: dict[str, list[float]] = {name: [] for name in CASES}
        for _ in range(rounds):
            for name, code in CASES.items():
                times[name].append(run_once(code, env))
        modules = {name: count_modules(code, env) for name, code in CASES.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare = "bare interpreter"
    return [
        {
            "case": name,
            "cpu_ms": round(medians[name] - (medians[bare] if name != bare else 0), 1),
            "modules": modules[name] - (modules[bare] if name != bare else 0),
            "limit_ms": LIMITS_MS.get(name),
            "limit_modules": LIMITS_MODULES.get(name),
        }
        for name in CASES
    ]


def show(rows: list[dict[str, object]], rounds: int) -> None:
    print(f"medians of {rounds} interleaved rounds; all but the first line are over the bare interpreter")
    print(f"{'':36}{'CPU ms':>8}{'limit':>8}{'modules':>10}{'limit':>8}")
    for row in rows:
        limits = [row["limit_ms"] or "", row["limit_modules"] or ""]
        print(f"{row['case']:36}{row['cpu_ms']:>8}{limits[0]:>8}{row['modules']:>10}{limits[1]:>8}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.rounds)
    if options.json:
        print(json.dumps({"rounds": options.rounds, "python": sys.version.split()[0], "cases": rows}, indent=2))
    else:
        show(rows, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
