"""What carrying out a plan takes from the network, said before anything is begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.api.making import MAKING_ENV, SERVING_ENV
from advisor.errors import AdvisorError
from advisor.facts.plan import Plan

if TYPE_CHECKING:
    from advisor.settings import Settings


def refuse_offline(settings: Settings, plan: Plan) -> None:
    """Say at once, and of all parts together, what cannot be had without the network.

    Raises:
        AdvisorError: ``offline``, with the names of the missing environments.
    """
    from advisor.execute import envs

    if not settings.offline:
        return
    missing = [name for name in needed_environments(plan) if envs.find(name, settings=settings) is None]
    if missing:
        raise AdvisorError(
            "offline",
            f"Not built yet, and building needs the network: the environment{'s' if len(missing) > 1 else ''} "
            f"{' and '.join(missing)}.",
            hint=" && ".join(f"advisor env build {name}" for name in missing),
            data={"missing": missing},
        )


def needed_environments(plan: Plan) -> tuple[str, ...]:
    """The managed environments that carrying out ``plan`` takes."""
    from advisor.backends.registry import quantizers, runtimes

    if plan.method == "gguf":
        return (SERVING_ENV,) if plan.source in ("as-is", "prequantized") else (SERVING_ENV, MAKING_ENV)
    found = [runtimes()[plan.runtime].capabilities().env]
    if plan.source == "quantize" and plan.quantizer is not None:
        found.append(quantizers()[plan.quantizer].capabilities().env)
    return tuple(name for name in found if name is not None)
