"""Which rules fire in a set of situations: a rule that never does is dead, or a situation is missing.

Most rules are decided by what is known of a candidate before its cost; only for the others is a situation planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from advisor.backends.base import QuantizerCapabilities, RuntimeCapabilities
from advisor.facts.catalogue import LATE_PREFIXES
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Goal, PlanRequest
from advisor.facts.words import RUNTIMES
from advisor.guide.engine import Ready, prepare, verdict
from advisor.guide.schema import RulePack
from advisor.planner.candidate import FORMATS, candidates
from advisor.planner.costing import Costing
from advisor.planner.facts import CandidateFacts, Facts, fixed_facts
from advisor.planner.lacking import Lacking
from advisor.planner.recommend import Planner
from advisor.planner.request import effective_goal
from advisor.planner.targets import targets
from advisor.planner.tuning import Tuning

# Known only when the candidates before it have been planned.
_LATER: Final = ("candidate.fits_gpu_alone", "candidate.fits_fewer_devices", "candidate.tensor_types")


class Situation(NamedTuple):
    """A model, a machine and what is wanted. ``lacking``: ways whose kernels lacked there before."""

    id: str
    model: ModelFacts
    tensors: tuple[TensorSpec, ...]
    machine: Machine
    goal: Goal
    request: PlanRequest
    lacking: Lacking | None = None


def covered(
    situations: Iterable[Callable[[], Situation]],
    pack: RulePack,
    *,
    runtimes: Mapping[str, RuntimeCapabilities],
    quantizers: Mapping[str, QuantizerCapabilities],
) -> dict[str, str]:
    """The first situation in which each rule fires, by rule; rules that fire in none are not in it.

    Args:
        situations: makers of the situations; one is made only while rules are left that have not fired.
    """
    found: dict[str, str] = {}
    for make in situations:
        left = tuple(r for r in pack.rules if r.id not in found)
        if not left:
            break
        s = make()
        for rule_id in _fired(s, msgspec.structs.replace(pack, rules=left), pack, runtimes, quantizers):
            found.setdefault(rule_id, s.id)
    return dict(sorted(found.items()))


def _fired(
    s: Situation,
    left: RulePack,
    pack: RulePack,
    runtimes: Mapping[str, RuntimeCapabilities],
    quantizers: Mapping[str, QuantizerCapabilities],
) -> set[str]:
    """The rules of ``left`` that fire in the situation under the whole ``pack``."""
    goal, _ = effective_goal(s.goal, s.request, s.model)
    fixed = fixed_facts(s.model, s.tensors, s.machine, goal, s.request)
    facts = CandidateFacts(s.model, s.tensors, s.request, runtimes, s.machine, s.lacking)
    costing = Costing(s.model, s.tensors, s.machine, goal, s.request, tune=Tuning(pack, fixed, facts))
    known = {**fixed, **costing.anchors()}
    rules = prepare(left, fixed).all
    # What is known before the cost decides these; a fact of the cost that is lacking now would be there later.
    early = [r for r in rules if all(f in known for f in r.varies if f in _LATER or f.startswith(LATE_PREFIXES))]
    late = {r.rule.id for r in rules} - {r.rule.id for r in early}
    out: set[str] = set()
    for more in _facts(s, facts, runtimes, quantizers):
        early, fired = _split(early, {**known, **more})
        out |= fired
    if late:
        planner = Planner(s.model, s.tensors, pack, runtimes, quantizers, lacking=s.lacking)
        planned = planner.plan(s.machine, s.goal, s.request)
        spoke = {d.rule.id for d in planned.dropped}
        for kept in planned.kept:
            spoke |= {*(d.rule for d in kept.outcome.decisions), *kept.outcome.overridden}
        out |= spoke & late
    return out


def _split(rules: list[Ready], facts: Facts) -> tuple[list[Ready], set[str]]:
    fired = {r.rule.id for r in rules if verdict(r, facts) is True}
    return [r for r in rules if r.rule.id not in fired], fired


def _facts(
    s: Situation,
    facts: CandidateFacts,
    runtimes: Mapping[str, RuntimeCapabilities],
    quantizers: Mapping[str, QuantizerCapabilities],
) -> Iterator[Facts]:
    """What is known of each candidate before its cost, and of each method in each runtime that no backend stands for:
    rules speak of those when a person names them."""
    for c in candidates(s.model, s.machine, s.request, runtimes=runtimes, quantizers=quantizers, tensors=s.tensors):
        yield facts.of(c)
    for runtime in RUNTIMES:
        if runtime in runtimes or s.request.runtime not in (None, runtime):
            continue
        for target in targets(s.machine):
            for method in FORMATS:
                where: Facts = {"candidate.runtime": runtime, "candidate.placement": target.placement}
                yield {**facts.target(target), "candidate.method": method, **where}
