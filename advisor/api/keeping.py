"""Plans are kept, so that ``up p-3f2a9c`` and ``explain p-3f2a9c`` work in a later process."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final

import msgspec

from advisor.errors import AdvisorError, did_you_mean
from advisor.execute.disk import make_folders, write_atomic
from advisor.facts.base import Shape, loads
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Goal, Plan, PlanRequest, Rejected, Relaxation, Warning_
from advisor.facts.reports import RecommendReport
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
    The fields with a default are new in version 3; an older file lacks them.
    """

    version: int
    model_ref: str
    plans: tuple[KeptPlan, ...]
    rejected: tuple[Rejected, ...]
    request: PlanRequest | None = None
    machine_name: str | None = None
    machine: Machine | None = None
    model: ModelFacts | None = None
    goal: Goal | None = None
    considered: int = 0
    possible: int = 0
    relaxations: tuple[Relaxation, ...] = ()
    warnings: tuple[Warning_, ...] = ()
    overlay_rules: tuple[str, ...] = ()

    def of(self, plan_id: str) -> KeptPlan | None:
        """The plan of that id, if it is among them."""
        return next((k for k in self.plans if k.plan.id == plan_id), None)


def keep_report(
    settings: Settings, report: RecommendReport, request: PlanRequest, plans: tuple[Plan, ...], *, here: bool
) -> str | None:
    """Keep ``plans``, those of the relaxations, and that ``report`` was the last answer; return why that failed, or
    ``None``. A plan that cannot be kept is still a plan.

    Args:
        plans: those of the report as they are to be kept.
        here: the report is about this machine.
    """
    model, machine = report.model, report.machine.named or (OWN if here else "a recorded machine")
    vendors: dict[str, str] = {d.id: d.vendor for d in report.machine.devices}

    def kept(plan: Plan, ref: str, where: str) -> KeptPlan:
        return KeptPlan(version=1, plan=plan, model_ref=ref, request=request, machine=where, vendors=vendors)

    ranked = tuple(kept(p, model.ref, machine) for p in plans)
    moved = tuple(
        kept(
            r.plan,
            r.plan.model if r.gives_up == "model" else model.ref,
            f"{'this machine' if machine == OWN else machine} with {r.change}" if r.gives_up == "hardware" else machine,
        )
        for r in report.relaxations
    )
    last = KeptRecommendation(
        version=3,
        model_ref=model.ref,
        plans=ranked,
        rejected=report.rejected,
        request=request,
        machine_name=machine,
        machine=report.machine,
        model=model,
        goal=report.goal,
        considered=report.candidates_considered,
        possible=report.candidates_possible,
        relaxations=report.relaxations,
        warnings=report.warnings,
        overlay_rules=report.overlay_rules,
    )
    return _kept(settings, (*ranked, *moved), last)


def keep_plans(settings: Settings, plans: tuple[KeptPlan, ...]) -> str | None:
    """Keep plans of several models, which are no recommendation for one of them; else as ``keep_report``."""
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
        known = sorted(p.stem for p in settings.paths.plans.glob("p-*.json"))
        raise AdvisorError(
            "plan-not-found",
            f"There is no kept plan {plan_id!r}.{did_you_mean(plan_id, known)}",
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
