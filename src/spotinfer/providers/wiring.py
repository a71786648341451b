"""What the ``wire.py`` of every cloud stands on: models that ignore what they do not know and never show input."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from ..core.errors import UnexpectedAnswer


class Wire(BaseModel):
    """A piece of a cloud's JSON. A field that we do not use is not declared; one that may be absent has a default."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True, populate_by_name=True)


W = TypeVar("W", bound=Wire)


def _exact(value: object) -> object:
    return str(value) if isinstance(value, float) else value


Dollars = Annotated[Decimal, BeforeValidator(_exact)]
"""An amount as the cloud wrote it: a JSON number becomes the decimal that it shows, not its binary neighbour."""


def parse(model: type[W], body: Any, *, provider: str) -> W:
    """``body`` as a ``model``. Raises :class:`UnexpectedAnswer` that names the fields which do not fit, not their
    contents: what a cloud answers may repeat a machine's environment."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc'])) or 'the answer'}: {item['msg']}" for item in error.errors()]
        # `from None`: pydantic's error keeps the input.
        raise UnexpectedAnswer(
            f"{model.__name__} does not fit: {'; '.join(wrong[:5])}", provider=provider, hint="please report this"
        ) from None
