"""Plans are kept, so that ``up p-3f2a9c`` and ``explain p-3f2a9c`` work in a later process."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final

import msgspec

from advisor.errors import AdvisorError
from advisor.execute.disk import make_folders, write_atomic
from advisor.facts.base import Shape, loads
from advisor.facts.plan import Plan, PlanRequest, Rejected
from advisor.settings import Settings

PLAN_ID: Final = re.compile(r"^p-[0-9a-f]{6,16}$")
# How the own machine is named.
OWN: Final = "this"
_LAST: Final = "last.json"
_KEEP: Final = 200


class KeptPlan(Shape, frozen=True, kw_only=True):
    """A plan with what it was an answer to. ``machine`` names the machine it was judged for (``this``: the own one),
    ``vendors`` who made its devices, by device key."""

    version: int
    plan: Plan
    model_ref: str
    request: PlanRequest
    machine: str
    vendors: dict[str, str] = msgspec.field(default_factory=dict)


class KeptRecommendation(Shape, frozen=True, kw_only=True):
    """The last recommendation, for ``explain``: what its plans were an answer to, and what was dropped.

    One plan may have been recommended for several goals and machines; rank, score and numbers are those of this time.
    """

    version: int
    model_ref: str
    plans: tuple[KeptPlan, ...]
    rejected: tuple[Rejected, ...]

    def of(self, plan_id: str) -> KeptPlan | None:
        """The plan of that id, if it is among them."""
        return next((k for k in self.plans if k.plan.id == plan_id), None)


def keep(settings: Settings, plans: tuple[KeptPlan, ...], rejected: tuple[Rejected, ...], model_ref: str) -> str | None:
    """Keep ``plans`` and that they were the last answer; return why that failed, or ``None``. A plan that cannot be
    kept is still a plan."""
    return _kept(settings, plans, KeptRecommendation(version=2, model_ref=model_ref, plans=plans, rejected=rejected))


def keep_plans(settings: Settings, plans: tuple[KeptPlan, ...]) -> str | None:
    """Keep plans of several models, which are no recommendation for one of them; else as ``keep``."""
    return _kept(settings, plans, None)


def _kept(settings: Settings, plans: tuple[KeptPlan, ...], last: KeptRecommendation | None) -> str | None:
    folder = settings.paths.plans
    try:
        make_folders(folder, mode=0o700)
        for kept in plans:
            path = folder / f"{kept.plan.id}.json"
            raw = kept.dumps()
            if not path.is_file() or (path.read_bytes() != raw and not _better(settings, kept)):
                write_atomic(path, raw)
        if last is not None:
            write_atomic(folder / _LAST, last.dumps())
        _forget_old(folder)
    except (OSError, AdvisorError) as e:
        return f"Plans cannot be kept in {folder} ({e}), so they cannot be named later."
    return None


def _better(settings: Settings, new: KeptPlan) -> bool:
    """Whether the plan is kept as one for this machine, where it can be carried out, and ``new`` is for another."""
    if new.machine == OWN:
        return False
    try:
        return find(settings, new.plan.id).machine == OWN
    except AdvisorError:
        return False


def _forget_old(folder: Path) -> None:
    kept = list(folder.glob("p-*.json"))
    if len(kept) <= _KEEP:
        return
    for path in sorted(kept, key=lambda p: p.stat().st_mtime)[: len(kept) - _KEEP]:
        with contextlib.suppress(OSError):
            path.unlink()


def find(settings: Settings, plan_id: str) -> KeptPlan:
    """The kept plan of that id.

    Raises:
        AdvisorError: ``plan-not-found``, or ``state-unreadable`` for a damaged or foreign file.
    """
    path = settings.paths.plans / f"{plan_id}.json"
    if not PLAN_ID.match(plan_id) or not path.is_file():
        raise AdvisorError(
            "plan-not-found",
            f"There is no kept plan {plan_id!r}.",
            hint="advisor recommend",
        )
    try:
        return loads(KeptPlan, path.read_bytes())
    except (OSError, msgspec.MsgspecError) as e:
        raise AdvisorError(
            "state-unreadable",
            f"{path} cannot be read as a plan of this version: {e}",
            hint="advisor recommend",
        ) from e


def requests_of(settings: Settings, plan_ids: tuple[str, ...]) -> dict[str, PlanRequest]:
    """What kept plans were an answer to, by id; those that cannot be read are left out."""
    out = {}
    for plan_id in plan_ids:
        with contextlib.suppress(AdvisorError):
            out[plan_id] = find(settings, plan_id).request
    return out


def last(settings: Settings) -> KeptRecommendation:
    """The last recommendation.

    Raises:
        AdvisorError: ``plan-not-found`` or ``state-unreadable``.
    """
    path = settings.paths.plans / _LAST
    if not path.is_file():
        raise AdvisorError("plan-not-found", "Nothing has been recommended yet.", hint="advisor recommend")
    try:
        return loads(KeptRecommendation, path.read_bytes())
    except (OSError, msgspec.MsgspecError) as e:
        raise AdvisorError("state-unreadable", f"{path} cannot be read: {e}", hint="advisor recommend") from e
