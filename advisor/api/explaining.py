"""``advisor explain``: the last recommendation, a kept plan, a rule, or an error code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor import datafiles
from advisor.api import keeping
from advisor.api.context import load_settings, rule_pack
from advisor.errors import CATALOGUE, AdvisorError, did_you_mean
from advisor.facts.reports import Explanation

if TYPE_CHECKING:
    from advisor.guide.schema import RulePack
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
        from advisor.api.error_help import explain_error

        return explain_error(what)
    from advisor.planner.explain import explain_rule

    pack = rule_pack(s)
    rule = pack.get(what) or pack.get(what.upper())
    if rule is not None:
        return _with_effect(s, explain_rule(rule))
    disabled = _disabled(pack, what.upper())
    if disabled is not None:
        return disabled
    near = did_you_mean(what, [*(r.id for r in pack.rules), *pack.disabled, *CATALOGUE, "last"])
    raise AdvisorError(
        "rule-not-found", f"{what!r} is neither a kept plan, a rule nor an error code.{near}", hint="advisor rules list"
    )


def _with_effect(settings: Settings, told: Explanation) -> Explanation:
    """The rule, and what it did in the last recommendation."""
    import msgspec

    from advisor.facts.reports import ExplanationPart
    from advisor.planner.explain import rule_effect

    try:
        latest = keeping.last(settings)
    except AdvisorError:
        return told
    what = f"{latest.model_ref} for {latest.request.goal}" if latest.request is not None else latest.model_ref
    said = rule_effect(told.id, tuple(k.plan for k in latest.plans), latest.rejected)
    part = ExplanationPart(title=f"In the last recommendation ({what})", sentences=said)
    return msgspec.structs.replace(told, details=(*told.details, *said), parts=(*told.parts, part))


def _disabled(pack: RulePack, rule_id: str) -> Explanation | None:
    """A bundled rule that one of the user's files disables, in full and with the file."""
    if rule_id not in pack.disabled:
        return None
    import msgspec

    from advisor.facts.shown import listed
    from advisor.guide.load import load_pack
    from advisor.guide.overlays import disabling
    from advisor.planner.explain import explain_rule

    rule = load_pack().get(rule_id)
    if rule is None:
        return None
    told = explain_rule(rule)
    said = f"It takes no part: {listed(disabling(pack, rule_id))} disables it."
    return msgspec.structs.replace(
        told, text=f"{said} {told.text}", details=tuple(f"{said}\n{d}" for d in told.details)
    )


def _weights(settings: Settings, goal: str) -> dict[str, float] | None:
    from advisor.planner import goals

    try:
        return goals.get(goal, overlay=datafiles.overlay_dir(settings.paths.config, "profiles/goals")).weights
    except AdvisorError:
        return None


def _plan(settings: Settings, plan_id: str) -> Explanation:
    """A plan as it was last recommended, with its rivals of that time; or as it was kept."""
    try:
        latest = keeping.last(settings)
    except AdvisorError:
        latest = None
    found = latest.of(plan_id) if latest is not None else None
    if latest is not None and found is not None:
        return _among(settings, found, latest)
    return _among(settings, keeping.find(settings, plan_id), None)


def _among(settings: Settings, kept: keeping.KeptPlan, latest: keeping.KeptRecommendation | None) -> Explanation:
    from advisor.planner.explain import explain_plan

    return explain_plan(
        kept.plan,
        goal=kept.request.goal,
        machine=kept.machine,
        others=tuple(k.plan for k in latest.plans) if latest is not None else (),
        rejected=latest.rejected if latest is not None else (),
        goal_weights=_weights(settings, kept.request.goal),
    )


def _last(settings: Settings) -> Explanation:
    """The whole story of the last recommendation; of one that an older version kept, what it kept."""
    from advisor.facts.plan import PlanRequest
    from advisor.planner.story import Answer, story

    latest = keeping.last(settings)
    first = latest.plans[0] if latest.plans else None
    return story(
        Answer(
            plans=tuple(k.plan for k in latest.plans),
            rejected=latest.rejected,
            relaxations=latest.relaxations,
            request=latest.request or (first.request if first is not None else PlanRequest()),
            model_ref=latest.model_ref,
            machine_name=latest.machine_name or (first.machine if first is not None else None),
            machine=latest.machine,
            model=latest.model,
            goal=latest.goal,
            considered=latest.considered,
            possible=latest.possible,
            warnings=latest.warnings,
            overlay_rules=latest.overlay_rules,
        )
    )
