"""What carrying out a plan takes from the network, said before anything is begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.api.making import MAKING_ENV, SERVING_ENV
from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Plan

if TYPE_CHECKING:
    from advisor.settings import Settings


def refuse_offline(settings: Settings, plan: Plan, model: ModelFacts) -> None:
    """Say at once, and of all parts together, what cannot be had without the network.

    Raises:
        AdvisorError: ``offline``, with the names of the missing environments.
    """
    if not settings.offline:
        return
    from advisor.api.variants import variant_of
    from advisor.backends.pins import pins
    from advisor.execute import envs

    needed = needed_environments(plan, model)
    on_cpu = needed[:1] if plan.devices == ("host",) else ()
    wanted = [pins(name, variant_of(settings, name, on_cpu=name in on_cpu)) for name in needed]
    lacking = [p for p in wanted if envs.find(p.name, settings=settings, pins=p) is None]
    missing = [p.name for p in lacking]
    if missing:
        raise AdvisorError(
            "offline",
            f"Not built yet, and building needs the network: the environment{'s' if len(missing) > 1 else ''} "
            f"{' and '.join(missing)}.",
            hint=" && ".join(map(envs.build_command, lacking)),
            data={"missing": missing},
        )


def needed_environments(plan: Plan, model: ModelFacts) -> tuple[str, ...]:
    """The managed environments that carrying out ``plan`` of ``model`` takes, that of its runtime first."""
    from advisor.api.adapters import MERGING_ENV
    from advisor.backends.registry import quantizers, runtimes
    from advisor.planner import asked

    found: list[str | None] = [SERVING_ENV if plan.method == "gguf" else runtimes()[plan.runtime].capabilities().env]
    if plan.method == "gguf" and plan.source not in ("as-is", "prequantized"):
        found.append(MAKING_ENV)
    elif plan.method != "gguf" and plan.source == "quantize" and plan.quantizer is not None:
        found.append(quantizers()[plan.quantizer].capabilities().env)
    if (
        plan.method != "gguf"
        and plan.source != "prequantized"
        and (model.kind == "pypi" or model.weights_format == "gguf")
    ):
        found.append(MAKING_ENV)  # a 16-bit checkpoint is restored from the file first
    if plan.parameters.get(asked.ADAPTER) is not None:
        found.append(MERGING_ENV)
    return tuple(dict.fromkeys(name for name in found if name is not None))
