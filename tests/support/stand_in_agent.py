"""A tiny program in the place of the agent: keeps the promises that the provider ``local`` relies on, and no more.

It takes the lock, starts an "engine" in a session of its own that inherits the lock, says its ports, and at SIGTERM
ends the engine and says why. Traits on the command line spoil it:

- ``stubborn``: neither it nor its engine minds SIGTERM
- ``family``: the engine has a child in another session, with the machine's mark
- ``nameless``: the engine has a child in its session that carries no mark, like a program that renames itself
- ``hidden``: the engine has a child with neither, that holds the lock
- ``brief``: ends by itself at once, idle
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

ENGINE = """
import os, signal, subprocess, sys, time
folder, lock, *traits = sys.argv[1:]
if "stubborn" in traits:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
kinds = {
    "family": {"start_new_session": True},
    "nameless": {"env": {}},
    "hidden": {"env": {}, "start_new_session": True, "pass_fds": (int(lock),)},
}
for kind, how in kinds.items():
    if kind in traits:
        child = subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(60)"], **how)
        with open(os.path.join(folder, kind + ".pid.new"), "w") as file:
            file.write(str(child.pid))
        os.replace(file.name, file.name[:-4])
print("engine is up", flush=True)
time.sleep(60)
"""


def main(traits):
    folder = os.path.join(os.environ["SPOTINFER_DIR"], "agent")
    os.makedirs(folder, exist_ok=True)
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in traits else lambda *_: sys.exit(0))
    with open(os.path.join(folder, "engine.log"), "ab") as log:
        engine = subprocess.Popen(
            [sys.executable, "-I", "-c", ENGINE, folder, str(lock), *traits],
            stdout=log,
            pass_fds=(lock,),
            start_new_session=True,
        )
    ports = {"agent": 40001, "engine": 40002, "pid": os.getpid(), "engine_pid": engine.pid}
    record(folder, "ports.json", ports)
    print("agent is up", flush=True)
    cause = "idle"
    try:
        if "brief" not in traits:
            cause = "terminated"
            time.sleep(60)
    finally:
        engine.kill()
        engine.wait()
        record(folder, "ended.json", {"cause": cause, "at": time.time(), "exit_code": -9, "detail": ""})


def record(folder, name, value):
    path = os.path.join(folder, name)
    with open(path + ".tmp", "w") as stream:
        json.dump(value, stream)
    os.replace(path + ".tmp", path)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1:])
