"""Run open-weight LLMs at the price of the metal.

Importing this package loads nothing: every public name below is loaded when it is first touched (PEP 562).
"""

TYPE_CHECKING = False  # type checkers know this name; `typing` itself would cost 8 ms

if TYPE_CHECKING:
    from .client.aio import AsyncClient as AsyncClient
    from .client.aio import AsyncServer as AsyncServer
    from .client.api import aconnect as aconnect
    from .client.api import alaunch as alaunch
    from .client.api import aplan as aplan
    from .client.api import connect as connect
    from .client.api import launch as launch
    from .client.api import plan as plan
    from .client.settings import Settings as Settings
    from .client.sync import Client as Client
    from .client.sync import Server as Server
    from .core import errors as errors
    from .core.errors import SpotinferError as SpotinferError
    from .core.states import Cause as Cause
    from .core.states import State as State
    from .ledger.meter import Meter as Meter
    from .planning.plan import Plan as Plan

__version__ = "0.1.0"


def _public() -> dict[str, str]:
    """Name -> module, read out of the block above, so that no second list can differ from it."""
    import pkgutil
    import re

    source = (pkgutil.get_data(__name__, "__init__.py") or b"").decode()
    return {name: module for module, name in re.findall(r"^    from (\S+) import (\w+) as \2$", source, re.MULTILINE)}


if not TYPE_CHECKING:  # to a type checker it would make every misspelt name an object

    def __getattr__(name: str) -> object:
        if not name.startswith("__"):
            module = _public().get(name)
            if module is not None:
                import importlib

                loaded = importlib.import_module(module, __name__)
                value = (
                    getattr(loaded, name)
                    if hasattr(loaded, name)
                    else importlib.import_module(f"{module}.{name}", __name__)
                )
                globals()[name] = value
                return value
        if name == "__all__":
            return sorted(_public())
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_public()})
