"""cloud-init user data for clouds that rent whole hosts: the agent runs on the host, the engine in a container.

A pure function turns an :class:`InstanceSpec` into a shell script that cloud-init runs once, as root, at the first
boot. The script only writes files and enables a service, so it takes a second; whatever can fail or takes long (Docker
is missing, the image is pulled) happens in the *engine's shim*, after the agent is up: its lease and its limits hold
by then, and the output is in the engine's log. The shim stands on the agent's path under the engine's own name and runs
the same command line in the image, so the agent is told the same on a host as in a container.

Who can read it: user data is readable for the account's keys, for root on the machine and for whatever reaches the
cloud's metadata service there. The files are readable for root only.
"""

from __future__ import annotations

import base64
import gzip
import json
import lzma
import re
import shlex
import zlib
from collections.abc import Iterable, Mapping

from ..core.errors import ProviderError
from ..core.model import InstanceSpec
from ..core.secret import Secret

PROGRAMS = ("vllm",)
"""Engines that are in their image and not on the host."""
CONTAINER = "spotinfer-engine"
HOST_ONLY = (
    r"HOME|HOSTNAME|INVOCATION_ID|JOURNAL_STREAM|LANG|LC_.*|LOGNAME|OLDPWD|PATH|PWD|SHELL|SHLVL|SPOTINFER_.*|USER|_"
)
"""Variables that describe the host or the agent; in the container they would mislead."""

_SCRIPT = """\
#!/bin/sh
# spotinfer's agent. Holds secrets: everything here is readable for root only.
set -eu
umask 077
here="${SPOTINFER_HOST_DIR:-/opt/spotinfer}"
mkdir -p "$here/bin"
{files}
chmod -R u+x "$here/start" "$here/bin"
sed "s|@here@|$here|g" "$here/spotinfer.service.in" > "$here/spotinfer.service"
systemctl enable --now --no-block "$here/spotinfer.service"
"""

_START = """\
#!/bin/sh
set -eu
here="$(dirname "$(readlink -f "$0")")"
. "$here/environment"
export HOME="${HOME:-/root}" SPOTINFER_DIR="$here/machine" PATH="$here/bin:$PATH"
exec {command}
"""

# on-abnormal: a killed agent comes back and keeps its limits; one that ended by itself stays away.
_UNIT = """\
[Unit]
Description=spotinfer agent
Wants=network-online.target
After=network-online.target
[Service]
ExecStart=@here@/start
Restart=on-abnormal
KillMode=mixed
TimeoutStopSec=90
[Install]
WantedBy=multi-user.target
"""

# By a here-document: a command line can be read by everybody on the machine.
_UNPACK = """\
#!/bin/sh
exec python3 -I - <<'SPOTINFER_END'
import base64, json, lzma, subprocess, sys, zlib
head, _, rest = lzma.decompress(base64.b64decode("{packed}")).partition(b"\\n")
script = b""
for size in json.loads(head):
    piece, rest = rest[:abs(size)], rest[abs(size):]
    script += base64.b64encode(zlib.compress(piece, 9)) if size < 0 else piece
sys.exit(subprocess.run(["sh"], input=script).returncode)
SPOTINFER_END
"""

_SHIM = """\
#!/usr/bin/env python3
import os, re, shutil, subprocess, sys, time
IMAGE, NAME, GPUS, HOST_ONLY = {image!r}, {name!r}, {gpus!r}, {host_only!r}
here = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
machine, cache = os.path.join(here, "machine"), os.path.join(here, "cache")
def run(*argv, out=None):
    try:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out).returncode
    except OSError as error:
        print(error, flush=True)
        return 127
if shutil.which("docker") is None or (GPUS and shutil.which("nvidia-ctk") is None):
    print("installing docker and the NVIDIA container toolkit", flush=True)
    apt = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq")
    run(*apt, "update")
    run(*apt, "install", "-y", "docker.io", "nvidia-container-toolkit")
    run("nvidia-ctk", "runtime", "configure", "--runtime=docker")
    run("systemctl", "restart", "docker")
    if shutil.which("docker") is None:
        sys.exit("docker is missing and could not be installed")
for pause in (5, 20, 0):
    print("pulling image " + IMAGE, flush=True)
    if run("docker", "pull", IMAGE) == 0:
        break
    time.sleep(pause)
else:
    sys.exit("cannot pull " + IMAGE)
run("docker", "rm", "-f", NAME, out=subprocess.DEVNULL)
os.makedirs(cache, exist_ok=True)
passed = [part for name in os.environ if not re.fullmatch(HOST_ONLY, name) for part in ("-e", name)]
os.execvp("docker", ["docker", "run", "--rm", "--name", NAME, "--network", "host", "--ipc", "host",
    *(["--gpus", "all"] if GPUS else []), "-v", machine + ":" + machine + ":ro", "-v", cache + ":/root/.cache",
    *passed, "--entrypoint", os.path.basename(sys.argv[0]), IMAGE, *sys.argv[1:]])
"""


def user_data(spec: InstanceSpec, *, limit: int, programs: tuple[str, ...] = PROGRAMS) -> str:
    """The script, as plain text of at most ``limit`` bytes. It holds the secrets of ``spec.env``.

    ``SPOTINFER_HOST_DIR`` in the environment of the script moves everything that it writes (emulated machines).
    Raises :class:`ProviderError` when it does not fit or when a variable cannot be written.
    """
    text = _script(spec, programs)
    _check_size(len(text.encode()), limit)
    return text


def compressed_user_data(spec: InstanceSpec, *, limit: int, programs: tuple[str, ...] = PROGRAMS) -> bytes:
    """A script that runs the same script, as gzip, which cloud-init unpacks: for clouds that take bytes and allow few.

    Within it everything is packed once more, and better (xz): what the environment holds packed already is unpacked
    before and packed again on the machine. The same spec gives the same bytes.
    """
    packed = base64.b64encode(_packed(_script(spec, programs), _ours(spec.env))).decode()
    data = gzip.compress(_UNPACK.replace("{packed}", packed).encode(), 9, mtime=0)
    _check_size(len(data), limit)
    return data


def _packed(script: str, values: Iterable[str]) -> bytes:
    """xz of: a line with the lengths of the pieces that follow, negative for those to be packed again."""
    pieces: list[tuple[bytes, bool]] = [(script.encode(), False)]
    for value in values:
        inside, old = _unpacked(value), value.encode()
        if inside is None:
            continue
        for at, (text, is_inside) in enumerate(pieces):
            if not is_inside and old in text:
                before, _, after = text.partition(old)
                pieces[at : at + 1] = [(before, False), (inside, True), (after, False)]
                break
    head = json.dumps([-len(piece) if inside else len(piece) for piece, inside in pieces])
    return lzma.compress(b"\n".join([head.encode(), b"".join(piece for piece, _ in pieces)]), preset=9)


def _ours(env: Mapping[str, Secret | str]) -> list[str]:
    """What may come out packed otherwise than it went in, as long as the same is inside."""
    return [_text(value) for name, value in env.items() if name.startswith("SPOTINFER_")]


def _unpacked(value: str) -> bytes | None:
    """What is in base64(zlib(...)), the form of the agent and of its configuration; None for anything else."""
    try:
        return zlib.decompress(base64.b64decode(value, validate=True)) or None
    except (ValueError, zlib.error):
        return None


def _script(spec: InstanceSpec, programs: tuple[str, ...]) -> str:
    files = {
        "environment": _environment(spec.env),
        "start": _START.replace("{command}", shlex.join(spec.command)),
        "spotinfer.service.in": _UNIT,
    }
    if spec.image is not None:
        shim = _shim(spec)
        files.update({f"bin/{program}": shim for program in programs})
    return _SCRIPT.replace("{files}", "\n".join(_file(name, content) for name, content in files.items()))


def _shim(spec: InstanceSpec) -> str:
    return _SHIM.format(image=spec.image, name=CONTAINER, gpus=spec.offer.accelerators is not None, host_only=HOST_ONLY)


def _environment(env: Mapping[str, Secret | str]) -> str:
    lines = []
    for name, value in env.items():
        text = _text(value)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in text:
            raise ProviderError(f"{name!r} cannot be a variable of the machine, or holds a NUL")
        lines.append(f"export {name}={shlex.quote(text)}\n")
    return "".join(lines)


def _text(value: Secret | str) -> str:
    return value.reveal() if isinstance(value, Secret) else value


def _file(name: str, content: str) -> str:
    """A here-document that is taken as it is, whatever the content."""
    end = "SPOTINFER_END"
    while end in content:
        end += "_"
    return f"cat > \"$here/{name}\" <<'{end}'\n{content}{'' if content.endswith(chr(10)) else chr(10)}{end}"


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ProviderError(
            f"the machine's start-up script has {size} bytes, and the cloud allows {limit}",
            hint="pass fewer or shorter variables and engine options",
        )
