from __future__ import annotations

from argparse import Namespace
from getpass import getpass
from typing import TYPE_CHECKING

from .common import can_ask
from .parser import Parser

if TYPE_CHECKING:
    from ..client.settings import Settings
    from ..core.secret import Secret

ASKED = {
    "runpod": ("runpod_api_key", "RunPod", "console.runpod.io, Settings, API Keys"),
    "vast": ("vast_api_key", "Vast.ai", "cloud.vast.ai, Keys"),
    "lambda": ("lambda_api_key", "Lambda", "cloud.lambda.ai, API keys"),
    "huggingface": ("hf_token", "Hugging Face (gated models only)", "huggingface.co, Settings, Access Tokens"),
}
TRIES = 3


def options(parser: Parser) -> None:
    parser.add_argument("which", nargs="?", metavar="CLOUD", help=f"only one: {', '.join(ASKED)}")


def run(arguments: Namespace) -> int:
    """Opens nothing; a launch on this computer needs no key."""
    from ..client.settings import Settings
    from ..core.errors import ConfigError, UnknownName
    from . import output

    which = arguments.which
    if which is not None and which not in ASKED:
        raise UnknownName("cloud", which, list(ASKED))
    if not can_ask():
        variables = "RUNPOD_API_KEY, VAST_API_KEY, LAMBDA_API_KEY, HF_TOKEN"
        raise ConfigError("init asks for keys, and there is no terminal", hint=f"set variables instead: {variables}")
    output.say("Enter leaves a key as it is. What you type is not shown.\n", style="dim")
    for name in ASKED if which is None else [which]:
        _ask(Settings.load(), name)
    output.say("\nNext: spotinfer doctor", style="dim")
    return 0


def _ask(settings: Settings, name: str) -> None:
    from ..core.secret import Secret
    from . import output

    setting, title, where = ASKED[name]
    known = f"has a key ({settings.sources[setting]})" if settings.is_set(setting) else f"get one at {where}"
    output.say(f"{title}: {known}")
    for _ in range(TRIES):
        typed = getpass("  key: ").strip()
        if not typed:
            return
        secret = Secret(typed)
        if _accepted(name, setting, secret):
            _keep(settings, setting, secret)
            return


def _keep(settings: Settings, setting: str, secret: Secret) -> None:
    from ..client.settings import Origin, Settings, store_secret
    from . import output

    source = store_secret(settings, setting, secret)
    output.say(f"  kept in {'the keyring' if source.origin is Origin.KEYRING else source.where}", style="green")
    now = Settings.load().sources[setting]
    if now.origin is not source.origin:
        output.complain(f"  {now} comes before it", hint="remove that one to use the new key")


def _accepted(name: str, setting: str, secret: Secret) -> bool:
    """Whether the key should be kept: it works, or it cannot be checked now."""
    import anyio

    from ..client.doctor import check_provider
    from ..client.settings import Settings
    from ..core.errors import AuthenticationFailed, SpotinferError
    from ..providers.registry import provider_names
    from . import output

    try:
        if name == "huggingface":
            output.say(f"  works: {anyio.run(_hub_user, secret)}", style="green")
        elif name in provider_names():
            account = anyio.run(check_provider, Settings.load(**{setting: secret}), name)
            output.say(f"  works{': ' + account.user if account.user else ''}", style="green")
        else:
            output.say("  not checked: this release has no adapter for it", style="yellow")
    except AuthenticationFailed as error:
        output.complain(f"  {error.message}", hint="type it again, or Enter to leave it")
        return False
    except SpotinferError as error:
        output.say(f"  not checked: {error.message}", style="yellow")
    return True


async def _hub_user(secret: Secret) -> str:
    """Whose token it is. Raises ``AuthenticationFailed``, ``ProviderUnavailable``."""
    import os

    import httpx2

    from ..core.errors import AuthenticationFailed, ProviderUnavailable

    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/") + "/api/whoami-v2"
    try:
        async with httpx2.AsyncClient(timeout=10) as http:
            answer = await http.get(address, headers={"Authorization": f"Bearer {secret.reveal()}"})
    except httpx2.HTTPError as error:
        raise ProviderUnavailable(f"the hub does not answer ({type(error).__name__})") from error
    if answer.status_code in (401, 403):
        raise AuthenticationFailed("the hub refuses this token")
    if answer.status_code != 200:
        raise ProviderUnavailable(f"the hub answers {answer.status_code}")
    try:
        return str(answer.json()["name"])
    except (ValueError, KeyError, TypeError):
        return "the hub knows it"
