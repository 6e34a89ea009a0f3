"""Ready-made quantized artifacts beside what advisor would make itself: offered, weighed, fetched, held to the plan."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.base import dumps_any
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Commands, Disk, Plan, PlanRequest
from advisor.facts.quantity import exact
from advisor.model import hubref

if TYPE_CHECKING:
    from advisor.api.making import Made
    from advisor.execute.hub.variants import Variant
    from advisor.execute.steps import Steps
    from advisor.settings import Settings

# A third party's artifact comes before our own only where the user wants to be served soon above all.
_FAST = "fastest-deployment"
# Tensors beside the weights (rotary tables, a copied output matrix) make files of one model differ by some per cent.
_CLOSE = 0.2


def offered(plans: tuple[Plan, ...], model: ModelFacts, request: PlanRequest, settings: Settings) -> tuple[Plan, ...]:
    """``plans`` with the ready-made artifacts of ``model`` among them, where the hub is asked anyway.

    That is where the model was found at the hub, its weights are not here, and nothing forbids to download. The
    artifact of the model's own publisher goes before the plan that makes the same format here: less to download,
    nothing to wait for, and from the hand that the weights themselves would come from. Anybody else's goes after it:
    it cannot be held against the original without fetching that, too.
    """
    asked = model.kind == "hub" and model.revision is not None and model.path is None
    if not asked or settings.offline or request.no_download or model.weights_format != "safetensors" or not plans:
        return plans
    found = {(v.method, v.format): v for v in reversed(_look(model, settings))}
    out: list[Plan] = []
    for plan in plans:
        variant = found.get((plan.method, plan.made_as))
        if variant is None or plan.source != "quantize":
            out.append(plan)
            continue
        twin = _twin(plan, variant, model)
        out += [twin, plan] if variant.own or request.goal == _FAST else [plan, twin]
    return tuple(msgspec.structs.replace(p, rank=n) for n, p in enumerate(out[: max(request.top, 1)], 1))


def _look(model: ModelFacts, settings: Settings) -> tuple[Variant, ...]:
    from advisor.api.hubbing import client
    from advisor.execute.hub import variants
    from advisor.execute.hub.record import Library

    library = Library(Path(settings.paths.cache))
    parsed = hubref.parse(model.ref)
    record = library.find(parsed) if parsed is not None else None
    return variants.look(client(settings, patience=variants.PATIENCE), library, record) if record is not None else ()


def _twin(plan: Plan, variant: Variant, model: ModelFacts) -> Plan:
    """The plan with the artifact fetched instead of made."""
    choice = {"plan": plan.id, "artifact": variant.ref}
    whose = "the publisher of the model" if variant.own else "somebody else than the publisher of the model"
    downloads = "" if variant.downloads is None else f", {variant.downloads:,} downloads"
    saved = (plan.disk.download_bytes or model.weights_bytes or 0) - variant.bytes
    notes = (
        f"made by {variant.publisher} ({whose}{downloads}): {variant.repo}",
        f"{variant.bytes / 1e9:.2f} GB are fetched instead of {(variant.bytes + saved) / 1e9:.2f} GB, and nothing is "
        "quantized here",
    )
    alone = (
        "Its bytes are compared with the hub's hashes and it is verified by itself; it is not held against the "
        "original, which is not fetched."
    )
    none = exact(0.0, "s", "the artifact is fetched ready-made")
    return msgspec.structs.replace(
        plan,
        id=f"p-{hashlib.sha256(dumps_any(choice)).hexdigest()[:8]}",
        source="prequantized",
        artifact=variant.ref,
        quantizer=None,
        imatrix=False,
        commands=Commands(quantize=(), serve=plan.commands.serve),
        time=msgspec.structs.replace(plan.time, quantize=none),
        disk=Disk(download_bytes=variant.bytes, peak_bytes=variant.bytes),
        assumptions=(*notes, *plan.assumptions),
        warnings=(alone, *plan.warnings),
        parameters={},
    )


def fetch(plan: Plan, model: ModelFacts, settings: Settings, steps: Steps) -> Made:
    """The artifact of a ``prequantized`` plan, fetched and held to what the plan says.

    Raises:
        AdvisorError: ``integrity`` where its header is of another model or format; as ``hubbing.fetched``.
    """
    from advisor.api import hubbing
    from advisor.api.making import Made, has_imatrix

    if plan.artifact is None:
        raise AdvisorError("not-available", f"The plan {plan.id} names no artifact that can be served here.")
    announced = hubbing.lookup(plan.artifact, settings, ask=True, steps=steps)
    if announced is not None:
        _same(plan, model, announced)
    found = hubbing.fetched(plan.artifact, settings, steps)
    _same(plan, model, found)
    if found.path is None:
        raise AdvisorError("model-needs-download", f"{plan.artifact} is not here.")
    note = f"The artifact was fetched ready-made: {found.ref}. It was not held against the original."
    if plan.method != "gguf":
        from advisor.execute.checkpoint import recipe_of_facts

        return Made(Path(found.path), None, False, {}, None, (note,), recipe_of_facts(found))
    return Made(Path(found.path), None, has_imatrix(Path(found.path)), {}, None, (note,))


def _same(plan: Plan, model: ModelFacts, found: ModelFacts) -> None:
    """Refuse a file whose own header speaks of another model or another format."""
    from advisor.planner.candidate import own_format

    differ = [
        f"{name} {getattr(found, name):,} instead of {getattr(model, name):,}"
        for name in ("layers", "hidden", "heads", "kv_heads")
        if getattr(found, name) != getattr(model, name)
    ]
    # The elements of packed tensors are no weights: shapes alone tell of a checkpoint.
    if plan.method == "gguf" and abs(found.params - model.params) > _CLOSE * model.params:
        differ.append(f"{found.params:,} weights instead of {model.params:,}")
    if plan.method == "gguf" and own_format(found) != plan.format:
        differ.append(f"the format {own_format(found)} instead of {plan.format}")
    if plan.method != "gguf" and found.quantized_format != plan.format:
        differ.append(f"the format {found.quantized_format or found.weights_dtype} instead of {plan.format}")
    if differ:
        raise AdvisorError(
            "integrity",
            f"{found.ref} is not {model.name} in {plan.format}: {'; '.join(differ)}.",
            hint=f"advisor recommend {model.ref}",
            data={"artifact": found.ref},
        )
