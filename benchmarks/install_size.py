"""How many packages and megabytes `pip install .` brings into a new virtual environment.

    python benchmarks/install_size.py [--extra NAME ...] [--json]

Megabytes (10^6 bytes) as files occupy them, byte code excluded: it is made here, not downloaded. pip itself is left
out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEED = {"pip", "setuptools", "wheel"}
LIST = """\
import importlib.metadata as metadata, json
rows = []
for dist in metadata.distributions():
    files = [dist.locate_file(file) for file in dist.files or () if file.suffix != ".pyc"]
    rows.append([dist.name, dist.version, sum(file.stat().st_size for file in files if file.is_file())])
print(json.dumps(sorted(rows, key=lambda row: -row[2])))
"""


def install(what: str) -> list[tuple[str, str, int]]:
    """(name, version, bytes) of everything installed, the largest first."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", what], check=True, stdin=subprocess.DEVNULL)
        listed = subprocess.run([python, "-c", LIST], check=True, capture_output=True, text=True)
    return [(name, version, size) for name, version, size in json.loads(listed.stdout) if name.lower() not in SEED]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extra", action="append", default=[], help="also install this extra (may be repeated)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    what = str(ROOT) + (f"[{','.join(options.extra)}]" if options.extra else "")
    packages = install(what)
    total = sum(size for _, _, size in packages)
    if options.json:
        rows = [{"name": name, "version": version, "bytes": size} for name, version, size in packages]
        print(json.dumps({"packages": len(packages), "bytes": total, "installed": rows}, indent=2))
        return 0
    for name, version, size in packages:
        print(f"{size / 1e6:8.1f} MB  {name} {version}")
    print(f"{total / 1e6:8.1f} MB in {len(packages)} packages, spotinfer among them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
