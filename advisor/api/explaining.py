"""``advisor explain``: the last recommendation, a kept plan, a rule, or an error code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.api import keeping
from advisor.api.context import load_settings, rule_pack
from advisor.errors import CATALOGUE, AdvisorError, did_you_mean
from advisor.facts.plan import Plan
from advisor.facts.reports import Explanation

if TYPE_CHECKING:
    from advisor.settings import Settings


def explain(what: str | None = None, *, settings: Settings | None = None) -> Explanation:
    """Say why. ``what``: a plan id, a rule id, an error code, or nothing (or ``last``) for the last recommendation.

    Raises:
        AdvisorError: ``rule-not-found`` with near misses, ``plan-not-found``, ``state-unreadable``.
    """
    s = load_settings(settings)
    if what is None or what == "last":
        return _last(s)
    if keeping.PLAN_ID.match(what):
        return _plan(s, what)
    if what in CATALOGUE:
        entry = CATALOGUE[what]
        return Explanation(kind="error", id=what, title=f"{what} (exit code {entry.exit_code})", text=entry.explanation)
    from advisor.planner.explain import explain_rule

    pack = rule_pack(s)
    rule = pack.get(what) or pack.get(what.upper())
    if rule is not None:
        return explain_rule(rule)
    near = did_you_mean(what, [*(r.id for r in pack.rules), *CATALOGUE])
    raise AdvisorError(
        "rule-not-found", f"{what!r} is neither a kept plan, a rule nor an error code.{near}", hint="advisor rules list"
    )


def _others(settings: Settings, ids: tuple[str, ...]) -> list[Plan]:
    found = []
    for plan_id in ids:
        try:
            found.append(keeping.find(settings, plan_id).plan)
        except AdvisorError:
            continue
    return found


def _weights(settings: Settings, goal: str) -> dict[str, float] | None:
    from advisor.planner import goals

    try:
        return goals.get(goal).weights
    except AdvisorError:
        return None


def _plan(settings: Settings, plan_id: str) -> Explanation:
    from advisor.planner.explain import explain_plan

    kept = keeping.find(settings, plan_id)
    try:
        latest = keeping.last(settings)
    except AdvisorError:
        latest = None
    same = latest is not None and plan_id in latest.plan_ids
    return explain_plan(
        kept.plan,
        others=_others(settings, latest.plan_ids) if latest is not None and same else (),
        rejected=latest.rejected if latest is not None and same else (),
        pack=rule_pack(settings),
        goal_weights=_weights(settings, kept.request.goal),
    )


def _last(settings: Settings) -> Explanation:
    import msgspec

    from advisor.planner.explain import explain_plan, rejected_text

    latest = keeping.last(settings)
    if not latest.plan_ids:
        return Explanation(
            kind="recommendation",
            id="last",
            title=latest.model_ref,
            text=f"No plan for {latest.model_ref} fits the machine.",
            details=tuple(rejected_text(r) for r in latest.rejected),
        )
    first = keeping.find(settings, latest.plan_ids[0])
    told = explain_plan(
        first.plan,
        others=_others(settings, latest.plan_ids),
        rejected=latest.rejected,
        pack=rule_pack(settings),
        goal_weights=_weights(settings, first.request.goal),
    )
    return msgspec.structs.replace(told, kind="recommendation")
