"""Measured quality in place of predicted quality, wherever a plan or an estimate speaks of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from advisor.errors import AdvisorError

if TYPE_CHECKING:
    from advisor.cost.estimate import Cost
    from advisor.facts.model import ModelFacts
    from advisor.facts.results import Verification
    from advisor.settings import Settings

_PLAIN_KV = ("f16", "bf16", "f32")


def cost_function(settings: Settings, model: ModelFacts) -> Callable[..., Cost] | None:
    """``cost.estimate.cost`` with what was verified of ``model`` laid over it; ``None`` where nothing was.

    A cache of fewer bits loses something of its own, which no verification measures: such a plan keeps its prediction.
    """
    from advisor.execute import qualities

    known = qualities.load(settings, model)
    if not known:
        return None
    from advisor.cost.estimate import cost
    from advisor.cost.quality import measured

    def overlaid(*args: Any, **named: Any) -> Cost:
        found = cost(*args, **named)
        seen = known.get((named["method"], named["fmt"], bool(named.get("imatrix"))))
        if seen is None or named["settings"].kv_type not in _PLAIN_KV:
            return found
        return msgspec.structs.replace(found, quality=measured(seen, found.quality))

    return overlaid


def keep(
    settings: Settings,
    model: ModelFacts,
    *,
    method: str,
    fmt: str,
    imatrix: bool,
    verification: Verification | None,
) -> None:
    """Keep what was verified. That it cannot be kept does not undo what was measured, so it is no error."""
    from advisor.execute import qualities

    if verification is None:
        return
    try:
        qualities.keep(
            settings,
            model,
            method=method,
            fmt=fmt,
            imatrix=imatrix,
            verification=verification,
            local=_fetched(settings, model),
        )
    except (AdvisorError, msgspec.MsgspecError):
        return


def _fetched(settings: Settings, model: ModelFacts) -> ModelFacts | None:
    """A model that was named before its weights were here, as it lies here now; ``None`` where it does not."""
    from advisor.api.context import resolve_model
    from advisor.settings import without_network

    if model.path is not None or model.kind not in ("hub", "pypi"):
        return None
    try:
        found = resolve_model(model.ref, without_network(settings))
    except AdvisorError:
        return None
    return found if found.path is not None else None


def keep_sound(
    settings: Settings, model: ModelFacts | None, *, method: str, fmt: str, imatrix: bool, verification: Verification
) -> None:
    """Keep what was verified of a file that somebody brought, as what its method does to ``model``.

    A failed gate is left out: it says that this file is damaged, or made of another model, and nothing of the method.
    """
    if model is not None and verification.gate.verdict != "fail":
        keep(settings, model, method=method, fmt=fmt, imatrix=imatrix, verification=verification)
