"""Plans scenarios in one process: rules, capabilities, models and machines are loaded once and shared."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Final, NamedTuple

import msgspec

from advisor.backends.base import QuantizerCapabilities, RuntimeCapabilities
from advisor.backends.registry import quantizers, runtimes
from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Goal, Plan, PlanRequest, Recommendation
from advisor.facts.recipe import RecipeOptions
from advisor.facts.words import GGUF_FORMATS, GGUF_SERVED
from advisor.guide.load import load_pack
from advisor.guide.schema import RulePack
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from advisor.planner import goals
from advisor.planner.candidate import bits_of
from advisor.planner.recommend import recommend
from tests.scenarios.reading import HERE, amount, machine_of, seconds
from tests.scenarios.shapes import ModelSpec, Scenario

# More than there are candidates: every plan that can run is looked at. Where only the first plan is asked for, the next
# ones are there to say what came before what was wanted.
EVERY: Final = 10_000
FEW: Final = 10


class Answer(NamedTuple):
    """What the planner said: a recommendation, or the error with which it refused."""

    found: Recommendation | None
    error: AdvisorError | None = None

    @property
    def first(self) -> Plan | None:
        """The plan that is ranked first."""
        return self.found.plans[0] if self.found is not None and self.found.plans else None

    def fired(self) -> frozenset[str]:
        """Every rule that spoke for or against any candidate, as far as the answer shows it."""
        if self.found is None:
            rule = self.error.data.get("rule") if self.error is not None and self.error.data else None
            return frozenset([str(rule)] if rule else [])
        spoke = {d.rule for p in self.found.plans for d in p.decisions}
        # A rule that gave way to another one spoke, too.
        spoke |= {text.split()[0] for p in self.found.plans for text in p.assumptions if " gave way to " in text}
        spoke |= {d.rule for r in self.found.relaxations for d in r.plan.decisions}
        return frozenset(spoke | {r.rule for r in self.found.rejected})


class _Loaded(NamedTuple):
    pack: RulePack
    goals: dict[str, Goal]
    runtimes: dict[str, RuntimeCapabilities]
    quantizers: dict[str, QuantizerCapabilities]


@cache
def loaded() -> _Loaded:
    """The bundled rules, goals and capabilities."""
    return _Loaded(
        load_pack(),
        goals.load(),
        {n: r.capabilities() for n, r in runtimes().items()},
        {n: q.capabilities() for n, q in quantizers().items()},
    )


@cache
def model_of(spec: str | ModelSpec) -> tuple[ModelFacts, tuple[TensorSpec, ...]]:
    """Facts and tensors of a scenario's model: bundled, a size, or a folder of ``tests/fixtures/models``."""
    name = spec if isinstance(spec, str) else spec.name
    folder = HERE.parent / "fixtures" / "models" / name
    facts = resolve(str(folder) if folder.is_dir() else name)
    if isinstance(spec, ModelSpec):
        facts = _stored(facts, spec)
    return facts, tensors(facts)


def _stored(facts: ModelFacts, spec: ModelSpec) -> ModelFacts:
    if spec.stored in (*GGUF_FORMATS, *GGUF_SERVED):
        size = int(facts.params * (bits_of(spec.stored) or 16.0) / 8)
        return msgspec.structs.replace(
            facts,
            kind="gguf",
            path=f"/models/{spec.stored}.gguf",
            weights_format="gguf",
            weights_dtype=spec.stored,
            weights_bytes=size,
            source_types={spec.stored: size},
        )
    if spec.stored == "folder":
        size = facts.params * 2
        return msgspec.structs.replace(
            facts, kind="folder", path="/models/plain", weights_format="safetensors", weights_bytes=size
        )
    return msgspec.structs.replace(
        facts,
        kind="folder",
        path="/models/packed",
        weights_format="safetensors",
        quantized_method=spec.stored,
        quantized_format=spec.format,
        notes=(*facts.notes, f"already quantized: {spec.stored}"),
    )


def request_of(s: Scenario) -> PlanRequest:
    """The flags as the planner takes them."""
    f = s.flags
    return PlanRequest(
        goal=s.goal,
        context=f.context,
        parallel=f.parallel,
        method=f.method,
        format=f.format,
        runtime=f.runtime,
        quantizer=f.quantizer,
        kv_type=f.kv_type,
        min_tps=f.min_tps,
        max_memory_bytes=None if f.max_memory is None else amount(f.max_memory),
        min_quality=f.min_quality,
        within_s=None if f.within is None else seconds(f.within),
        no_download=f.no_download,
        adapter=None if f.adapter is None else f"/adapters/{f.adapter}",
        recipe=RecipeOptions(bits=f.bits, group_size=f.group_size),
        top=EVERY if s.must.some or s.must.before or s.must_not or s.rows else FEW,
    )


def plan(s: Scenario) -> Answer:
    """Plan one scenario.

    Raises:
        AdvisorError: the scenario itself names what there is not; a refusal of the request is an answer.
    """
    known = loaded()
    facts, weights = model_of(s.model)
    machine = machine_of(s.machine)
    try:
        return Answer(
            recommend(
                facts,
                weights,
                machine,
                known.goals[s.goal],
                request_of(s),
                known.pack,
                runtimes=known.runtimes,
                quantizers=known.quantizers,
                executable_here=False,
            )
        )
    except AdvisorError as e:
        return Answer(None, e)


class Planned:
    """Answers, each worked out once."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}

    def of(self, s: Scenario) -> Answer:
        """The answer of one scenario."""
        if s.id not in self._answers:
            self._answers[s.id] = plan(s)
        return self._answers[s.id]

    def silent(self, rules: Iterable[str], scenarios: Iterable[Scenario]) -> set[str]:
        """Those of ``rules`` that speak in none of the scenarios; planned only as far as it takes to know."""
        left = set(rules)
        for s in scenarios:
            if not left:
                break
            left -= self.of(s).fired()
        return left
