"""What a machine is good for: the best plan of each size class, and a ranking of known models.

Every number is a plan's own. To stay quick, ways that no size class can use on the machine are left out after the
first class, models are screened by their bytes and by a rough speed before the best of them are planned, and what
cannot be held at two bits a weight is not planned at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from advisor.backends.base import QuantizerCapabilities, RuntimeCapabilities
from advisor.facts import shown
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Goal, Plan, PlanRequest
from advisor.facts.suggestions import Choice, SizeClass
from advisor.facts.words import GGUF_SERVED
from advisor.guide.schema import RulePack
from advisor.model.tensors import tensors
from advisor.planner.building import Scored, build
from advisor.planner.candidate import BITS, LLAMA_ENGINES, bits_of
from advisor.planner.costing import HEADROOM, host_capacity
from advisor.planner.devices import device_capacity
from advisor.planner.facts import CandidateFacts, fixed_facts
from advisor.planner.generations import is_special, newest
from advisor.planner.recommend import Planner, Round, Way, way
from advisor.planner.request import effective_goal
from advisor.planner.targets import usable_devices
from advisor.planner.tuning import Tuning

if TYPE_CHECKING:
    from advisor.planner.learned import Learned

# Dense models, then mixtures of experts (total:active), of the sizes that are published most.
CLASSES: Final = ("1B", "3B", "8B", "14B", "32B", "70B", "30B:3B", "120B:5B", "235B:22B", "671B:37B")
# The fewest bits a weight of all formats that are tried; types that only others make are not.
_LEAST_BITS: Final = min(bits for fmt, bits in BITS.items() if fmt not in GGUF_SERVED)
_USUAL_BITS: Final = BITS["q4_k_m"]
# The share of the weights that a similar model may well need less.
_NEAR: Final = 0.15
# Half of the speed term's scale where the goal has no floor, as for plans.
_DEFAULT_TPS: Final = 10.0
_SMALLEST: Final = 1e8  # parameters, at the low end of the scale of ability
# Contexts are not looked for beyond this where the model does not say what it was trained for.
_LONGEST: Final = 131_072
_PLAIN: Final = frozenset(("bf16", "bfloat16", "f16", "fp16", "float16", "f32", "float32"))
_REASONS: Final = 3
_SPEAKERS: Final = {"vllm": 0, "transformers": 1, "llama.cpp": 2}
# So many of the best ways are tried again for similar models.
_WAYS: Final = 3


class Best(NamedTuple):
    """The best way to run a model: the plan, also in short, its best few ways and those short of a little memory."""

    model: ModelFacts
    plan: Plan
    choice: Choice
    ways: tuple[Way, ...]


class Missing(NamedTuple):
    """There is no way to run it: how many bytes the nearest lacks, at least, and why."""

    short_by: int | None
    because: str


def _near(found: Round, params: int) -> tuple[Way, ...]:
    """The ways that were dropped for a little memory."""
    near = _NEAR * params / 8
    return tuple(way(d[0]) for d in found.dropped if 0 < (d.short_by or 0) <= near * (bits_of(d[0].format) or 0))


class Suggester:
    """Plans many models on one machine for one goal. After the first plan, runtimes that cannot be used on the machine
    are no longer tried."""

    def __init__(
        self,
        machine: Machine,
        goal: Goal,
        request: PlanRequest,
        pack: RulePack,
        *,
        runtimes: Mapping[str, RuntimeCapabilities],
        quantizers: Mapping[str, QuantizerCapabilities],
        executable_here: bool,
        learned: Learned | None = None,
    ) -> None:
        self.machine, self.goal, self.request, self.pack = machine, goal, request, pack
        self.runtimes, self.quantizers, self.here = runtimes, quantizers, executable_here
        self.learned = learned
        self.cards = len(machine.devices)
        self.room = capacity(machine, request)
        self._usable: Mapping[str, RuntimeCapabilities] | None = None

    def classes(self, models: Sequence[ModelFacts]) -> dict[str, Best | Missing]:
        """The best plan of each size class, by its name; each begins with what was best for one that is smaller."""
        found: dict[str, Best | Missing] = {}
        for m in sorted(models, key=lambda m: m.params):
            smaller = [b for b in found.values() if isinstance(b, Best)]
            found[m.name] = self.best(m, like=smaller[-1] if smaller else None)
        return {m.name: found[m.name] for m in models}

    def best(self, model: ModelFacts, *, like: Best | Missing | None = None) -> Best | Missing:
        """The best plan for ``model``, or why there is none.

        Args:
            like: the best plan of a similar, no larger model. Where the best of its few best ways runs on the same
                devices, no others are looked at, but for models whose weights are in a format of their own.
        """
        least = int(model.params * _LEAST_BITS / 8)
        if model.weights_bytes is not None:
            least = min(least, model.weights_bytes)
        if self.room is not None and least > self.room:
            return Missing(
                least - self.room,
                f"{shown.size(least, 2)} even at {_LEAST_BITS:g} bits a weight; there is room for "
                f"{shown.size(self.room, 3)}.",
            )
        serving = self._usable or self.runtimes
        planner = Planner(model, tensors(model), self.pack, serving, self.quantizers, learned=self.learned)
        no_larger = isinstance(like, Best) and like.model.params <= model.params
        ways = like.ways if isinstance(like, Best) and no_larger and not _own_format(model) else ()
        found = planner.plan(self.machine, self.goal, self.request, only=ways) if ways else None
        if found is None or not found.kept or found.kept[0].candidate.target.keys != ways[0][3:]:
            found = planner.plan(self.machine, self.goal, self.request)
        if not found.kept:
            return _missing(found)
        if self._usable is None:
            self._usable = self._worth_trying(found)
        first = found.kept[0]
        plan = build(model, first, rank=1, executable_here=self.here, notes=found.notes, per_slot=found.goal.context)
        longest = self._longest_context(planner, found.goal, first)
        floor = self.request.min_tps or self.goal.min_decode_tps
        decode = plan.speed.decode
        meets = True if floor is None else None if decode is None else decode.value >= floor
        if plan.settings.context // plan.settings.parallel < self.goal.context:
            meets = False
        best = tuple(dict.fromkeys(way(s.candidate) for s in found.kept))[:_WAYS]
        return Best(
            model,
            plan,
            _choice(plan, longest, self.cards, meets),
            tuple(dict.fromkeys(best + _near(found, model.params))),
        )

    def _worth_trying(self, found: Round) -> dict[str, RuntimeCapabilities]:
        """Of the runtimes that can be used the ones that advisor starts itself, and the best of all; of the programs
        around llama.cpp, which share its numbers, the best alone."""
        order = list(dict.fromkeys(s.candidate.runtime for s in found.kept))
        # What fits in 16, 8 and 4 bits is always asked of llama.cpp.
        engine = next((name for name in order if name in LLAMA_ENGINES), None)
        return {
            name: caps
            for name, caps in self.runtimes.items()
            if name == "llama.cpp"
            or (
                name in order
                and (caps.executable or name == order[0])
                and (name not in LLAMA_ENGINES or name == engine)
            )
        }

    def _longest_context(self, planner: Planner, goal: Goal, s: Scored) -> int:
        """The longest context for each conversation that fits with the choice ``s``, by doubling and bisection."""
        most = planner.model.context_max or _LONGEST
        ladder = [goal.context]
        while ladder[-1] * 2 <= most:
            ladder.append(ladder[-1] * 2)
        if ladder[-1] < most:
            ladder.append(most)
        low, high = 0, len(ladder) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits(planner, s, ladder[middle]):
                low = middle
            else:
                high = middle - 1
        return ladder[low]

    def _fits(self, planner: Planner, s: Scored, context: int) -> bool:
        request = msgspec.structs.replace(self.request, context=context)
        goal, _ = effective_goal(self.goal, request, planner.model)
        fixed = fixed_facts(planner.model, planner.tensors, self.machine, goal, request)
        facts = CandidateFacts(planner.model, planner.tensors, request, planner.runtimes, self.machine)
        costing = planner.costing(self.machine, goal, request, Tuning(self.pack, fixed, facts))
        settled = costing.settle(s.candidate, imatrix=s.imatrix)
        if settled is None:
            return False
        _, cost, fit = settled
        limit = request.max_memory_bytes
        return fit.fits is True and (limit is None or int(cost.memory.total.value) <= limit)


def _own_format(model: ModelFacts) -> bool:
    """Whether the weights come in a quantized format, which may be served as it is."""
    plain = (model.weights_dtype or "bf16").lower() in _PLAIN
    return model.weights_format == "gguf" or model.quantized_method is not None or not plain


def capacity(machine: Machine, request: PlanRequest) -> int | None:
    """Bytes of all memories together that a plan may take; ``None`` where one is not known."""
    sizes = [host_capacity(machine)]
    for d in usable_devices(machine):
        size = device_capacity(d)
        if size is None:
            return None
        if not d.unified_memory:
            sizes.append(size)
    room = int(sum(sizes) * (1 - HEADROOM))
    return room if request.max_memory_bytes is None else min(room, request.max_memory_bytes)


def _missing(found: Round) -> Missing:
    short = [d for d in found.dropped if d.short_by is not None]
    if short:
        nearest = min(short, key=lambda d: (d.short_by or 0, d.candidate.key))
        return Missing(nearest.short_by, nearest.because)
    # The runtimes that advisor starts itself speak first: why the others do not take it says less.
    first = min(found.dropped, key=lambda d: _SPEAKERS.get(d.candidate.runtime, len(_SPEAKERS)), default=None)
    return Missing(None, first.because if first is not None else "No way to run it is known.")


def _choice(plan: Plan, longest: int, cards: int, meets_goal: bool | None) -> Choice:
    s = plan.settings
    weighty = sorted((d for d in plan.decisions if (d.weight or 0) > 0), key=lambda d: (-(d.weight or 0), d.rule))
    return Choice(
        method=plan.method,
        format=plan.format,
        quantizer=plan.quantizer,
        runtime=plan.runtime,
        status=plan.status,
        needs=plan.needs,
        devices=plan.devices,
        placement=shown.placement(plan, cards),
        context=s.context // s.parallel,
        parallel=s.parallel,
        kv_type=s.kv_type,
        longest_context=max(longest, s.context // s.parallel),
        memory=plan.memory.total,
        decode=plan.speed.decode,
        prefill=plan.speed.prefill,
        kld=plan.quality.kld,
        meets_goal=meets_goal,
        score=plan.score,
        because=tuple(weighty[:_REASONS]),
    )


def size_class(params: int, active: int, classes: Sequence[ModelFacts]) -> str:
    """The name of the nearest class, by total and active parameters on a logarithmic scale; dense models and mixtures
    of experts are not mixed."""
    alike = [c for c in classes if sparse(c.params, c.active_params) == sparse(params, active)] or list(classes)

    def distance(c: ModelFacts) -> float:
        return abs(math.log(c.params / params)) + abs(math.log(c.active_params / active))

    return min(alike, key=lambda c: (distance(c), c.name)).name


def sparse(params: int, active: int) -> bool:
    """Whether a good part of the weights idles for each token: a mixture of experts."""
    return active < 0.75 * params


def class_of(facts: ModelFacts, found: Best | Missing, models: tuple[str, ...]) -> SizeClass:
    """One size class as it is shown."""
    return SizeClass(
        name=facts.name,
        params=facts.params,
        active_params=facts.active_params,
        choice=found.choice if isinstance(found, Best) else None,
        short_by=found.short_by if isinstance(found, Missing) else None,
        because=found.because if isinstance(found, Missing) else None,
        models=models,
    )


def weight(params: int, active: int) -> float:
    """The size that stands for ability: the geometric mean of total and active parameters."""
    return math.sqrt(float(params) * float(active))


def ability(size: float, largest: float) -> float:
    """From 0 for a tenth of a billion parameters to 1 for ``largest``, on a logarithmic scale."""
    top = math.log(max(largest, 2 * _SMALLEST) / _SMALLEST)
    return max(0.0, min(1.0, math.log(max(size, _SMALLEST) / _SMALLEST) / top))


def total(goal: Goal, terms: Mapping[str, float]) -> float:
    """The score of a model for ``goal``: its terms under the goal's weights squared, scaled to sum to one.

    Squared, because models differ in every term at once, far more than the plans of one model do: what the goal
    weighs most is to decide. ``ability`` stands where a plan's score has ``quality``.
    """
    squares = {("ability" if name == "quality" else name): w * w for name, w in goal.weights.items()}
    whole = sum(squares.values()) or 1.0
    return round(sum(w * terms.get(name, 0.0) for name, w in sorted(squares.items())) / whole, 4)


def terms_of(found: Best, goal: Goal, largest: float) -> dict[str, float]:
    """The terms of a planned model."""
    own, m = found.plan.terms, found.model
    decode = float(found.choice.decode.value) if found.choice.decode is not None else None
    kept = {name: own.get(name, 0.0) for name in ("memory", "time", "disk")}
    able = ability(weight(m.params, m.active_params), largest) * own.get("quality", 1.0)
    return {"ability": round(able, 4), "speed": round(_speed(decode, goal), 4), **kept}


def _speed(decode: float | None, goal: Goal) -> float:
    """Two thirds at the goal's speed: beyond it, more speed is worth less than it is between plans of one model."""
    half = (goal.min_decode_tps or _DEFAULT_TPS) / 2
    return 0.0 if decode is None else decode / (decode + half)


class Known(NamedTuple):
    """What is known of a model before its facts are read."""

    ref: str
    params: int
    active_params: int


class Screened(NamedTuple):
    """What is worth planning, in order; how many models fit; and the largest size among those that keep up."""

    promising: tuple[Known, ...]
    fitting: int
    largest: float


def screened(
    models: Sequence[Known], sizes: Mapping[str, Best | Missing], class_of: Mapping[str, str], suggester: Suggester
) -> Screened:
    """The models that memory can hold, the most promising first: by their class's speed and a rough score.

    Of one maker's family only the newest of a size class is promising, and nothing that its name calls special.

    Args:
        sizes: what was found for each size class.
        class_of: the size class of each model, by the model's ``ref``.
    """
    goal, request, room = suggester.goal, suggester.request, suggester.room
    bits = (bits_of(request.format) if request.format is not None else None) or _USUAL_BITS
    floor = request.min_tps or goal.min_decode_tps
    rated = []
    for m in models:
        need, found = int(m.params * bits / 8 * 1.05), sizes[class_of[m.ref]]
        if room is not None and need > room:
            continue
        speed = None
        if isinstance(found, Best) and found.choice.decode is not None:
            speed = float(found.choice.decode.value) * found.model.active_params / m.active_params
        rated.append((m, need, speed))
    able = [weight(m.params, m.active_params) for m, _, speed in rated if _keeps_up(speed, floor)]
    largest = max(able, default=_SMALLEST)
    scored = []
    for m, need, speed in rated:
        terms = {
            "ability": ability(weight(m.params, m.active_params), largest),
            "speed": _speed(speed, goal),
            "memory": 0.5 if not room else max(0.0, 1 - need / room),
            "time": 1 / (1 + m.params / 1e10),
            "disk": 0.5,
        }
        scored.append((not _keeps_up(speed, floor), -total(goal, terms), m.ref.lower(), m))
    fresh = newest([m.ref for m, *_ in rated if not is_special(m.ref, goal.id)], class_of)
    ordered = [m for *_, m in sorted(scored, key=lambda s: s[:3])]
    return Screened(tuple(m for m in ordered if m.ref in fresh), len(ordered), largest)


def _keeps_up(speed: float | None, floor: float | None) -> bool:
    """Whether a rough speed may be enough: it is a fifth off at times."""
    return floor is None or speed is None or speed > 0.8 * floor


def told(found: Best, goal: Goal, floor: float | None) -> str:
    """Why a model is where it is, in one line."""
    m, choice = found.model, found.choice
    parts = [f"{shown.count(m.params)} parameters"]
    if sparse(m.params, m.active_params):
        parts[0] += f", {shown.count(m.active_params)} at work for each token"
    if choice.decode is None:
        parts.append("its speed is not known")
    elif floor is None:
        parts.append(shown.quantity(choice.decode))
    else:
        side = "above" if float(choice.decode.value) >= floor else "below"
        parts.append(f"{shown.quantity(choice.decode)}, {side} the {floor:g} tok/s that are wanted")
    if choice.context < goal.context:
        parts.append(f"trained for {choice.context} tokens of context, fewer than the {goal.context} that are wanted")
    return "; ".join(parts) + "."
