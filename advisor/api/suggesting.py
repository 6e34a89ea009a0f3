"""``advisor recommend`` without MODEL: what to run on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

import msgspec

from advisor import datafiles
from advisor.api import keeping, learning, planning, ruling, targeting
from advisor.api.context import fetched_lookup, load_settings, resolve_model, rule_pack
from advisor.api.options import PlanOptions, checked, machine_options, request_of
from advisor.errors import AdvisorError
from advisor.facts.machine import Machine
from advisor.facts.plan import Warning_
from advisor.facts.suggestions import SuggestedModel, Suggestions

if TYPE_CHECKING:
    from advisor.facts.plan import Plan
    from advisor.planner.suggest import Best, Known, Missing, Suggester
    from advisor.settings import Settings

# So many more models are planned than are shown, because they were screened by rough numbers.
_SPARE: Final = 3


def suggest(
    *,
    machine: Machine | Path | None = None,
    top: int = 10,
    settings: Settings | None = None,
    **options: Unpack[PlanOptions],
) -> Suggestions:
    """What a machine is good for: for each size class the best plan, and the known models that run best on it.

    Nothing is fetched and the network is not asked.

    Args:
        machine: a machine, or a recorded one; this one by default.
        top: how many models to return.
        options: as ``recommend``; all of them hold for every model.

    Raises:
        AdvisorError: an unknown goal, device or word; options that exclude each other.
    """
    checked("suggest", options)
    s = load_settings(settings)
    request = request_of(options, top=top)
    if request.adapter is not None:
        raise AdvisorError(
            "contradictory-options",
            "--adapter belongs to one model; without MODEL there is none to merge it into.",
            hint="advisor recommend MODEL --adapter DIR",
        )
    target, warnings, here = targeting.target_machine(s, machine=machine, options=machine_options(options))
    known, more = learning.learned(s, target, here=here)
    from advisor.backends.registry import quantizers, runtimes
    from advisor.planner import goals
    from advisor.planner.request import check
    from advisor.planner.suggest import Suggester

    pack = rule_pack(s)
    goal = goals.get(
        request.goal,
        overlay=datafiles.overlay_dir(s.paths.config, "profiles/goals"),
        cache_dir=Path(s.paths.cache) / "rules",
    )
    makers = {name: q.capabilities() for name, q in quantizers().items()}
    check(request, pack, makers)
    serving = {name: r.capabilities() for name, r in runtimes().items()}
    if request.context is not None:  # so that all that is said of the goal holds for what was asked
        goal = msgspec.structs.replace(goal, context=request.context)
    if request.parallel is not None:
        goal = msgspec.structs.replace(goal, parallel=request.parallel)
    if request.min_tps is not None:
        goal = msgspec.structs.replace(goal, min_decode_tps=request.min_tps)
    suggester = Suggester(
        target, goal, request, pack, runtimes=serving, quantizers=makers, executable_here=here, learned=known
    )
    return _suggested(s, suggester, warnings + more + ruling.own_rules(settings=s), top)


def _suggested(s: Settings, suggester: Suggester, warnings: tuple[Warning_, ...], top: int) -> Suggestions:
    from advisor.cost.quality import is_early
    from advisor.model.sizes import facts as typical
    from advisor.planner import suggest as planner

    request = suggester.request
    classes = [typical(name) for name in planner.CLASSES]
    known = _known(s, here_only=request.no_download)
    # The typical model of a size is nowhere; what is asked is whether such a one would run.
    suggester.request = msgspec.structs.replace(request, no_download=False)
    class_of = {m.ref: planner.size_class(m.params, m.active_params, classes) for m in known}
    sizes = suggester.classes(classes)
    suggester.request = request
    found = planner.screened(known, sizes, class_of, suggester)
    planned: list[Best | Missing] = []
    for m in found.promising:
        facts = resolve_model(m.ref, s)
        # A model that was never taught to answer is none to talk to, and those of 2023 know less than smaller ones now.
        if facts.chat_template is not False and not is_early(facts):
            planned.append(suggester.best(facts, like=sizes[class_of[m.ref]]))
        if len(planned) == top + _SPARE:
            break
    runs = [one for one in planned if isinstance(one, planner.Best)]
    ranked = _ranked(s, runs, suggester, class_of, found.largest)[:top]
    plans = tuple(plan for _, plan in ranked)
    kept = tuple(
        keeping.KeptPlan(
            version=1,
            plan=plan,
            model_ref=model.ref,
            request=request,
            machine=suggester.machine.named or (keeping.OWN if suggester.here else "a recorded machine"),
            vendors={d.id: d.vendor for d in suggester.machine.devices},
        )
        for model, plan in ranked
    )
    problem = keeping.keep_plans(s, kept)
    extra = (Warning_(code="plans-not-kept", message=problem),) if problem else ()
    return Suggestions(
        size_classes=tuple(
            planner.class_of(c, sizes[c.name], tuple(ref for ref, name in class_of.items() if name == c.name))
            for c in classes
        ),
        models=tuple(model for model, _ in ranked),
        plans=plans,
        machine=suggester.machine,
        goal=suggester.goal,
        warnings=warnings + extra,
        models_considered=len(known),
        models_fitting=found.fitting,
        rules_hash=suggester.pack.content_hash,
    )


def _ranked(
    s: Settings, runs: list[Best], suggester: Suggester, class_of: dict[str, str], largest: float
) -> list[tuple[SuggestedModel, Plan]]:
    """The planned models, best first: those that meet the goal, then by score, then by name."""
    from advisor.planner import suggest as planner

    goal, floor = suggester.goal, suggester.request.min_tps or suggester.goal.min_decode_tps
    rated = []
    for found in runs:
        terms = planner.terms_of(found, goal, largest)
        score = planner.total(goal, terms)
        rated.append(((found.choice.meets_goal is False, -score, found.model.ref.lower()), found, terms, score))
    out = []
    for rank, (_, found, terms, score) in enumerate(sorted(rated, key=lambda r: r[0]), 1):
        plan = msgspec.structs.replace(
            planning.with_weights(planning.with_given(found.plan, suggester.machine), found.model, s), rank=rank
        )
        choice = msgspec.structs.replace(found.choice, status=plan.status, needs=plan.needs)
        model = SuggestedModel(
            rank=rank,
            ref=found.model.ref,
            name=found.model.name,
            params=found.model.params,
            active_params=found.model.active_params,
            size_class=class_of[found.model.ref],
            license=found.model.license,
            plan_id=plan.id,
            choice=choice,
            score=score,
            terms=terms,
            because=planner.told(found, goal, floor),
        )
        out.append((model, plan))
    return out


def _known(s: Settings, *, here_only: bool) -> tuple[Known, ...]:
    """The models with bundled facts; with ``here_only`` those whose weights are here."""
    from advisor.model import bundled
    from advisor.planner.suggest import Known

    overlay = datafiles.overlay_dir(s.paths.config, "profiles/models")
    found = bundled.listed(overlay)
    return tuple(
        Known(ref, found[ref].params, found[ref].active_params)
        for ref in bundled.names(overlay)
        if not here_only or fetched_lookup(s, ref) is not None
    )
