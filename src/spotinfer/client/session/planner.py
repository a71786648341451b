"""From a model's name to a plan: asks the providers for offers and the engines whether they can serve it there."""

from __future__ import annotations

from ...control.attempt import HostView
from ...control.world import World
from ...core.errors import ProviderError, Reaction
from ...core.model import Offer, Want
from ...planning.plan import Candidate, Plan, rank, reject
from ...serving.choice import choose_engine
from ...serving.models import resolve_model
from ..options import LaunchRequest
from ..settings import Settings


async def make_plan(world: World, settings: Settings, model: str, request: LaunchRequest) -> Plan:
    """Raises ``UnknownName``, ``ConfigError``; a provider that cannot be asked is a rejected offer with its reason."""
    candidates: list[Candidate] = []
    rejected: dict[str, str] = {}
    names = [request.provider] if request.provider else list(world.providers)
    for name in names:
        provider = world.provider(name)
        try:
            offers = await provider.list_offers(Want(max_price=request.max_price))
        except ProviderError as error:
            if request.provider and error.reaction is not Reaction.NEXT_OFFER:
                raise
            rejected[name] = error.message
            continue
        for offer in offers:
            chosen = _candidate(world, settings, model, request, offer, local=not provider.capabilities.remote)
            if isinstance(chosen, str):
                rejected[offer.label] = chosen
            else:
                candidates.append(chosen)
    return Plan(model=model, candidates=rank(candidates), rejected=rejected, limits=request.limits)


def _candidate(
    world: World, settings: Settings, name: str, request: LaunchRequest, offer: Offer, *, local: bool
) -> Candidate | str:
    host = HostView(gpus=offer.accelerators.count if offer.accelerators else 0, local=local)
    model = resolve_model(name, revision=request.revision)
    if local is False and model.path is not None:
        return f"{name} is a folder or file on this computer; a rented machine cannot read it"
    choice = choose_engine(world.engines, model, host, request.engine)
    if local:  # only now is it known in which format the engine wants a model that we make ourselves
        model = resolve_model(
            name, engine_format=choice.engine.format, cache=settings.cache / "models", revision=request.revision
        )
    return reject(offer, model, request.max_price) or Candidate(
        offer=offer, engine=choice.engine.name, model=model, why=choice.reason
    )
