"""From machine, model and goal to ranked plans: rules that need no cost first, then cost, fit, score and rank.

Deterministic: the same inputs give the same bytes, whatever the order of rules, files or dictionaries.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from advisor.backends.base import QuantizerCapabilities, RuntimeCapabilities
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Goal, PlanRequest, Recommendation, Stage, Warning_
from advisor.facts.protocols import EngineOracle
from advisor.facts.text import clean
from advisor.guide.conditions import facts_of
from advisor.guide.engine import Prepared, Ready, decision, excluded_by, prepare, run
from advisor.guide.overlays import told
from advisor.guide.schema import Rule, RulePack
from advisor.planner import asked
from advisor.planner import score as scoring
from advisor.planner.building import Scored, build
from advisor.planner.candidate import Candidate, bits_of, candidates
from advisor.planner.costing import CostFn, Costing, Fit, LayersFn
from advisor.planner.devices import in_use
from advisor.planner.dropping import PLACE_ORDER, rejected
from advisor.planner.facts import CandidateFacts, Facts, fixed_facts
from advisor.planner.front import front
from advisor.planner.funnel import BY_FORMAT, Funnel, choice_of
from advisor.planner.misses import Miss, misses
from advisor.planner.mixing import between, smaller_cache
from advisor.planner.numa import spans_nodes
from advisor.planner.request import check, effective_goal
from advisor.planner.status import Status, judge
from advisor.planner.targets import usable_devices
from advisor.planner.tradeoff import compared
from advisor.planner.tuning import Tuning

if TYPE_CHECKING:
    from advisor.cost.estimate import Cost
    from advisor.planner.again import Named
    from advisor.planner.beside import Beside
    from advisor.planner.lacking import Lacking
    from advisor.planner.learned import Learned

_EXCLUDING: Final = ("exclude", "require")


# Method, GGUF type, runtime and device keys.
Way = tuple[str, ...]


def way(c: Candidate) -> Way:
    """What a candidate is, apart from who makes it and from how many weights share a scale, which widths decide."""
    return (c.method, c.format if c.method == "gguf" else "", c.runtime, *c.target.keys)


class Drop(NamedTuple):
    """A candidate that was dropped by a rule; ``short_by`` in bytes where memory is the reason.

    ``cost`` and ``fit`` are known where nothing but limits stood against it.
    """

    candidate: Candidate
    rule: Rule
    because: str
    short_by: int | None
    cost: Cost | None = None
    fit: Fit | None = None

    @property
    def late(self) -> bool:
        """Nothing but limits stood against it."""
        return self.cost is not None

    def misses(self, request: PlanRequest, room: int) -> tuple[Miss, ...]:
        """The limits that it misses; see ``misses``."""
        return () if self.cost is None or self.fit is None else misses(self.cost, self.fit, request, room=room)


class Round(NamedTuple):
    """The outcome of planning once: what can run, best first, and what was dropped."""

    kept: tuple[Scored, ...]
    dropped: tuple[Drop, ...]
    considered: int
    goal: Goal
    notes: tuple[str, ...]
    stages: tuple[Stage, ...]


def recommend(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    machine: Machine,
    goal: Goal,
    request: PlanRequest,
    pack: RulePack,
    *,
    runtimes: Mapping[str, RuntimeCapabilities],
    quantizers: Mapping[str, QuantizerCapabilities],
    executable_here: bool,
    engine: EngineOracle | None = None,
    cost_fn: CostFn | None = None,
    layers_fn: LayersFn | None = None,
    learned: Learned | None = None,
    lacking: Lacking | None = None,
    named: Named | None = None,
    beside: Beside | None = None,
) -> Recommendation:
    """Rank the ways to run ``model`` on ``machine`` for ``goal``, and say why the others were left out.

    Args:
        tensors: the model's tensors; empty where they are not known.
        executable_here: ``machine`` is the one that advisor runs on.
        cost_fn, layers_fn: stand in for ``advisor.cost.estimate.cost`` and ``advisor.cost.offload``.
        learned: what was measured on ``machine``.
        lacking: ways whose kernels lacked there.
        named: how model and machine were named on the command line, for commands that ask again.
        beside: advisor's own deployments, which run on ``machine``.

    Returns:
        Plans, best first; none where nothing fits, then ``relaxations`` say what would have to give.

    Raises:
        AdvisorError: ``bad-option`` or ``contradictory-options``.
    """
    check(request, pack, quantizers, model=model.ref)
    from advisor.planner.relax import relaxations

    planner = Planner(
        *(model, tensors, pack, runtimes, quantizers),
        engine=engine,
        cost_fn=cost_fn,
        layers_fn=layers_fn,
        learned=learned,
        lacking=lacking,
    )
    found = planner.plan(machine, goal, request)
    kept = front(found.kept) if request.pareto else found.kept
    # One more than is shown: the last one is held against it.
    built = tuple(
        build(model, s, rank=i, executable_here=executable_here, notes=found.notes, per_slot=found.goal.context)
        for i, s in enumerate(kept[: request.top + 1], 1)
    )
    plans = compared(built)[: request.top]
    less: tuple[Warning_, ...] = ()
    if beside is not None and beside.there and plans:
        from advisor.planner.beside import reduced

        warning = reduced(found, beside, lambda where: planner.plan(where, goal, request))
        less = (warning,) if warning is not None else ()
    overlay = sorted({d.rule for p in plans for d in p.decisions if d.overlay} | {
        d.rule.id for d in found.dropped if d.rule.overlay
    })  # fmt: skip
    return Recommendation(
        plans=plans,
        rejected=rejected(found, request, machine, closest=not plans),
        relaxations=()
        if plans
        else relaxations(
            *(planner, machine, goal, request),
            found=found,
            executable_here=executable_here,
            named=named,
            beside=beside,
        ),
        warnings=_warnings(model, machine, pack, found) + less,
        candidates_considered=found.considered,
        candidates_possible=len(found.kept),
        rules_hash=pack.content_hash,
        overlay_rules=tuple(overlay),
        stages=found.stages,
    )


class Planner:
    """Plans one model under one pack of rules; planning again with one thing moved shares the preparations."""

    def __init__(
        self,
        model: ModelFacts,
        tensors: tuple[TensorSpec, ...],
        pack: RulePack,
        runtimes: Mapping[str, RuntimeCapabilities],
        quantizers: Mapping[str, QuantizerCapabilities],
        *,
        engine: EngineOracle | None = None,
        cost_fn: CostFn | None = None,
        layers_fn: LayersFn | None = None,
        learned: Learned | None = None,
        lacking: Lacking | None = None,
    ) -> None:
        self.learned, self.lacking = learned, lacking
        self.model, self.tensors, self.pack = model, tensors, pack
        self.runtimes, self.quantizers = runtimes, quantizers
        self.engine, self.cost_fn, self.layers_fn = engine, cost_fn, layers_fn

    def costing(self, machine: Machine, goal: Goal, request: PlanRequest, tune: Tuning) -> Costing:
        """The costs of this model on ``machine``."""
        return Costing(
            *(self.model, self.tensors, machine, goal, request), cost_fn=self.cost_fn, layers_fn=self.layers_fn,
            engine=self.engine, tune=tune, learned=self.learned,
        )  # fmt: skip

    def candidates(self, machine: Machine, request: PlanRequest) -> Iterable[Candidate]:
        """What there is to choose from, before any rule."""
        return candidates(
            self.model, machine, request, runtimes=self.runtimes, quantizers=self.quantizers, tensors=self.tensors
        )

    def of(self, model: ModelFacts, tensors: tuple[TensorSpec, ...]) -> Planner:
        """A planner of another model, of which nothing was measured."""
        return Planner(model, tensors, self.pack, self.runtimes, self.quantizers, lacking=self.lacking)

    def plan(
        self,
        machine: Machine,
        goal: Goal,
        request: PlanRequest,
        *,
        only: Container[Way] | None = None,
        first: bool = False,
    ) -> Round:
        """Filter, cost, fit, score and rank; with ``only`` no other ways than those are looked at; with ``first`` it is
        over with the first one that can run."""
        goal, notes = effective_goal(goal, request, self.model)
        fixed = fixed_facts(self.model, self.tensors, machine, goal, request)
        facts = CandidateFacts(self.model, self.tensors, request, self.runtimes, machine, self.lacking)
        costing = self.costing(machine, goal, request, Tuning(self.pack, fixed, facts))
        anchors = costing.anchors()
        rules = prepare(self.pack, fixed)
        run_ = _Run(self, machine, goal, costing, rules, {**fixed, **anchors}, facts)
        found = self.candidates(machine, request)
        # Accelerators first: whether a candidate fits one decides if the host is worth a look.
        # Fewer devices first: whether it fits those decides what more of them are worth.
        for c in sorted(found, key=lambda c: (PLACE_ORDER[c.target.placement], len(c.target.devices), c.key)):
            if only is not None and way(c) not in only:
                continue
            run_.consider(c)
            if first and run_.kept:
                break
        if only is None and request.format is None and request.max_memory_bytes is None:
            for c in tuple(between(self.model, self.tensors, run_.kept, run_.dropped)):
                run_.weigh(c, more=True)
        if only is None and request.kv_type is None:
            for c in tuple(smaller_cache(run_.kept, run_.dropped, costing.cache_bytes)):
                run_.weigh(c, more=True)
        ready_first = not usable_devices(machine)
        kept = sorted(run_.kept, key=lambda s: _rank(s, ready_first=ready_first))
        dropped = sorted(run_.dropped, key=lambda d: (d.rule.id, d.candidate.key))
        funnel = run_.funnel
        return Round(tuple(kept), tuple(dropped), funnel.considered, goal, notes, funnel.stages(len(kept)))


def _rank(s: Scored, *, ready_first: bool) -> tuple[object, ...]:
    """``elsewhere`` last; without an accelerator what is ready comes first; then the score; then the name."""
    status = s.status.status
    return (status == "elsewhere", ready_first and status != "ready", -s.score, s.candidate.key)


class _Run:
    """One pass over the candidates."""

    def __init__(
        self,
        planner: Planner,
        machine: Machine,
        goal: Goal,
        costing: Costing,
        rules: Prepared,
        fixed: Facts,
        facts: CandidateFacts,
    ) -> None:
        self.planner, self.machine, self.goal, self.costing, self.fixed = planner, machine, goal, costing, fixed
        # What a runtime cannot serve at all is told before what is wrong with the format that it cannot serve.
        self.early: tuple[Ready, ...] = tuple(
            sorted(rules.early, key=lambda r: r.rule.family != "runtime" or bool(r.varies & BY_FORMAT))
        )
        self.late_out = tuple(r for r in rules.late if r.rule.kind in _EXCLUDING)
        self.everything = rules.all
        self.facts = facts
        self.kept: list[Scored] = []
        self.dropped: list[Drop] = []
        self.funnel = Funnel()
        # Of what fits accelerators alone, the fewest that it fits.
        self._on_gpu: dict[tuple[str, ...], int] = {}

    def consider(self, c: Candidate) -> None:
        """Keep the candidate or drop it with the reason."""
        if not self.funnel.tried(c):
            return
        known = self.funnel.known(c)
        if known is not None:
            self.dropped.append(Drop(c, known, known.because, None))
            return
        self.weigh(c)

    def weigh(self, c: Candidate, *, more: bool = False) -> None:
        """Keep or drop a candidate by its own facts; ``more``: one that came up because of what others missed."""
        self.funnel.sets += more
        same, on_gpu = choice_of(c), c.target.placement == "gpu"
        facts: Facts = {
            **self.fixed,
            **self.facts.of(c),
            "candidate.fits_gpu_alone": not on_gpu and same in self._on_gpu,
            "candidate.fits_fewer_devices": on_gpu and self._on_gpu.get(same, 1000) < len(c.target.devices),
        }
        out = excluded_by(self.early, facts)
        if out is not None:
            if not more:
                self.funnel.excluded(c, out)
            self._drop(c, out.rule, facts, None)
            return
        self.funnel.allowed += 1
        imatrix = self.facts.imatrix(c)
        settled = self.costing.settle(c, imatrix=imatrix)
        if settled is None:
            return
        settings, cost, fit = settled
        self.funnel.settled += 1
        if on_gpu and fit.fits:
            self._on_gpu.setdefault(same, len(c.target.devices))
        facts.update(self.costing.late_facts(cost, fit, c.source))
        out = excluded_by(self.late_out, facts)
        if out is not None:
            short = fit.short_by if "fit.fits" in out.varies else None
            if out.rule.id == "MEM-002" and self.costing.request.max_memory_bytes is not None:
                over = int(cost.memory.total.value) - self.costing.request.max_memory_bytes
                short = over if over > 0 else None
            self._drop(c, out.rule, facts, short, cost, fit)
            return
        outcome = run(self.everything, facts)
        wanted = asked.parameters(self.costing.request, c.method, c.source)
        if wanted:
            outcome = msgspec.structs.replace(outcome, values={**outcome.values, **wanted})
        status = judge(c, self.machine, runtimes=self.planner.runtimes, quantizers=self.planner.quantizers)
        parts = scoring.terms(
            cost, self.goal, headroom=fit.headroom, params=self.planner.model.params, bits=bits_of(c.format)
        )
        total = scoring.score(parts, self.goal, outcome.scores) - _penalty(status)
        self.kept.append(Scored(c, settings, imatrix, cost, fit, outcome, status, parts, round(total, 4)))

    def _drop(
        self,
        c: Candidate,
        rule: Rule,
        facts: Facts,
        short: int | None,
        cost: Cost | None = None,
        fit: Fit | None = None,
    ) -> None:
        measured = decision(rule, facts).measured
        lesson = self.facts.lacked(c)
        if lesson is not None and "candidate.kernels_lacked" in facts_of(rule.when):
            from advisor.planner.lacking import words

            measured += (words(lesson),)
        tail = "; ".join(measured)
        because = f"{rule.because} ({tail}.)" if tail else rule.because
        self.dropped.append(Drop(c, rule, because, short, cost, fit))


def _penalty(status: Status) -> float:
    return scoring.NEEDS_PENALTY if status.status == "needs" else 0.0


def _warnings(model: ModelFacts, machine: Machine, pack: RulePack, found: Round) -> tuple[Warning_, ...]:
    out = [Warning_(code="context-reduced", message=note) for note in found.notes]
    out += [Warning_(code="own-rules", message=text) for text in told(pack)] if pack.overlays else []
    out += [Warning_(code="bad-rules", message=str(p)) for p in pack.problems]
    out += [
        # In the words of the probe, so that it is said once.
        Warning_(code="device-unusable", message=f"{d.id}, {clean(d.name, 80)}: {clean(d.unusable)}")
        for d in sorted(machine.devices, key=lambda d: d.id)
        if d.unusable is not None and not d.for_screens
    ]
    for d in usable_devices(machine):
        if d.memory.usable_bytes is None and d.memory.free_bytes is None and d.memory.total_bytes is None:
            out.append(Warning_(code="unknown-memory", message=f"The memory of {d.id} ({d.name}) is not known."))
        taken = in_use(d)
        if taken is not None:
            out.append(Warning_(code="memory-in-use", message=f"{taken}."))
    spans = spans_nodes(machine, found.kept[0].cost.memory) if found.kept else None
    out += [spans] if spans else []
    if found.kept and found.kept[0].cost.speed.decode is None:
        out.append(Warning_(code="unknown-speed", message="The speed is not known: no memory bandwidth to go by."))
    if model.confidence == "low":
        out.append(Warning_(code="low-confidence", message="The model's architecture is not known in detail."))
    return tuple(out)


__all__ = ["Planner", "Round", "Way", "recommend", "way"]
