"""The system's keyring, where the extra ``keyring`` is installed. Slow to open: only on use."""

from __future__ import annotations

from importlib.util import find_spec

from ...core.errors import ConfigError
from ...core.secret import Secret

SERVICE = "spotinfer"


def installed() -> bool:
    return find_spec("keyring") is not None


def usable() -> bool:
    """Whether there is a keyring that can keep something; opens it."""
    if not installed():
        return False
    import keyring
    from keyring.errors import KeyringError

    try:
        return float(keyring.get_keyring().priority) >= 1  # the "fail" and "null" backends are below
    except (KeyringError, RuntimeError):
        return False


def fetch(name: str) -> Secret | None:
    """Raises :class:`ConfigError` when the keyring cannot be opened."""
    if not installed():
        raise ConfigError(
            f"{name} is in the keyring, but the package keyring is not installed",
            hint="pip install 'spotinfer[keyring]', or run `spotinfer init` to store the key elsewhere",
        )
    import keyring
    from keyring.errors import KeyringError

    try:
        value = keyring.get_password(SERVICE, name)
    except (KeyringError, RuntimeError) as error:
        raise ConfigError(
            f"the keyring cannot be opened: {type(error).__name__}", hint="unlock it, or set the variable instead"
        ) from error
    return Secret(value) if value else None


def store(name: str, secret: Secret) -> None:
    """Raises :class:`ConfigError` when the keyring cannot keep it."""
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(SERVICE, name, secret.reveal())
    except (KeyringError, RuntimeError) as error:
        raise ConfigError(f"the keyring did not keep {name}: {type(error).__name__}") from error
