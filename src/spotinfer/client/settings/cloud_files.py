"""Credentials that the clouds' own tools have stored: who uses one of them need not type the key again.

Best effort by design: a file of somebody else that cannot be read or has another form is no error of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .source import Found, Origin, Source

Environment = Mapping[str, str]


def runpod(environ: Environment) -> Found | None:
    """``~/.runpod/config.toml``: ``apikey`` by runpodctl, ``[default] api_key`` by the Python SDK."""
    path = Path("~/.runpod/config.toml").expanduser()
    text = _read(path)
    if text is None:
        return None
    from .toml import loads

    try:
        table = loads(text)
    except ValueError:
        return None
    profile = table.get("default")
    value = table.get("apikey") or (profile.get("api_key") if isinstance(profile, dict) else None)
    return _found(value, path)


def vast(environ: Environment) -> Found | None:
    """What ``vastai set api-key`` writes, and where older releases wrote it."""
    config = Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    for path in (config / "vastai" / "vast_api_key", Path("~/.vast_api_key").expanduser()):
        found = _found(_read(path), path)
        if found is not None:
            return found
    return None


def lambda_cloud(environ: Environment) -> Found | None:
    """Lambda has no tool of its own; ``~/.lambda_cloud/lambda_keys`` (``api_key = …``) is what others agreed on."""
    path = Path("~/.lambda_cloud/lambda_keys").expanduser()
    for line in (_read(path) or "").splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip() == "api_key":
            return _found(value.strip().strip("\"'"), path)
    return None


def hugging_face(environ: Environment) -> Found | None:
    """Where ``hf auth login`` writes: ``HF_TOKEN_PATH``, else ``token`` in ``HF_HOME``."""
    caches = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    home = Path(environ.get("HF_HOME") or caches / "huggingface").expanduser()
    path = Path(environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    return _found(_read(path), path)


def aws(environ: Environment) -> Found | None:
    """The profile that boto3 will use; it reads the keys itself."""
    for variable, default in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")):
        path = Path(environ.get(variable) or Path("~/.aws") / default).expanduser()
        if _read(path):
            return _found("default", path)
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _found(value: object, path: Path) -> Found | None:
    text = value.strip() if isinstance(value, str) else ""
    return Found(text, Source(Origin.CLOUD_FILE, str(path))) if text else None
