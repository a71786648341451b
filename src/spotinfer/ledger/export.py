"""A snapshot as a file for other programs. Money is written as exact text, never as a float."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

from ..core.clock import utc
from ..core.errors import ConfigError
from .metering.snapshot import RequestCost, Snapshot, plain

_REQUEST = (
    "key", "tag", "model", "endpoint", "status", "http_status", "stream", "probe", "started", "ended", "first_token",
    "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "estimated", "seconds", "accrued_usd",
)  # fmt: skip


def export(snapshot: Snapshot, path: str | os.PathLike[str]) -> Path:
    """Write ``.csv`` or ``.json`` by the name's ending; an existing file is replaced whole.

    The CSV has one row for every line and one for every request, told apart by its first column: the rows ``line`` sum
    to the accrued amount. Raises ``ConfigError`` for another ending or a place that cannot be written.
    """
    target = Path(path).expanduser()
    kinds = {".csv": as_csv, ".json": as_json}
    if target.suffix.lower() not in kinds:
        raise ConfigError(f"cannot export to {target.name!r}", hint="the name must end in .csv or .json")
    draft = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        draft.write_text(kinds[target.suffix.lower()](snapshot), encoding="utf-8", newline="")
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot write {target}: {error.strerror or error}", hint="name a file in a folder that you can write to"
        ) from error
    return target


def as_json(snapshot: Snapshot) -> str:
    document = {**snapshot.as_dict(), "request_rows": [_request(cost) for cost in snapshot.rows]}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def as_csv(snapshot: Snapshot) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=("record", "line", *_REQUEST), restval="", lineterminator="\r\n")
    writer.writeheader()
    for line in snapshot.lines:
        writer.writerow(
            {
                "record": "line",
                "line": line.label,
                "prompt_tokens": line.prompt_tokens,
                "completion_tokens": line.completion_tokens,
                "seconds": f"{line.seconds:.6f}",
                "accrued_usd": plain(line.amount),
            }
        )
    for cost in snapshot.rows:
        values = _request(cost)
        writer.writerow({"record": "request", "line": "probe" if cost.row.probe else "tag", **values})
    return text.getvalue()


def _request(cost: RequestCost) -> dict[str, object]:
    row = cost.row
    times = {"started": row.started, "ended": row.ended, "first_token": row.first_token}
    values: dict[str, object] = {name: getattr(row, name) for name in _REQUEST if hasattr(row, name)}
    values |= {name: None if at is None else utc(at).isoformat() for name, at in times.items()}
    return {**values, "seconds": round(cost.seconds, 6), "accrued_usd": plain(cost.amount)}
