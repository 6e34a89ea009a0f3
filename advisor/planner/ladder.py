"""The recovery ladder: what could be given up so that a plan that failed serves after all.

Each step moves one thing, or several where that loses less, and is found by really planning again under the
corrected memory, so that rules, headroom and costs are those of every plan. A step frees more than was missing. The
order is by loss: what the goal's own weights say of quality, speed and time to make it, and what a shorter context,
fewer slots and slower prompts are worth beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from advisor.facts.machine import Machine
from advisor.facts.plan import Goal, Plan, PlanRequest, Settings
from advisor.facts.recovery import LadderStep, StepKind
from advisor.planner.building import Scored, build
from advisor.planner.candidate import LLAMA_ENGINES, Candidate, bits_of
from advisor.planner.costing import Costing
from advisor.planner.recommend import Planner
from advisor.planner.request import MIN_CONTEXT
from advisor.planner.tuning import Tuning

if TYPE_CHECKING:
    from advisor.cost.estimate import Cost

HOST: Final = "host"
# What half of a context costs on the scale of a score, where the user named it and where the goal did; half the slots;
# half of the tokens a prompt is read by at a time (prompts only, some per cent); another program in front.
_HALF_CONTEXT_ASKED: Final = 0.08
_HALF_CONTEXT: Final = 0.04
_HALF_SLOTS: Final = 0.05
_HALF_BATCH: Final = 0.004
_OTHER_RUNTIME: Final = 0.05
# Terms of a score that what is given up shows in.
_TERMS: Final = ("quality", "speed", "time")
_BATCHES: Final = (256, 128, 64)
_CACHES: Final = ("q8_0", "q4_0")
_MOST: Final = 8


class Moved(NamedTuple):
    """A request with one thing moved, and what that is. ``plain``: without the types of named tensors of the plan."""

    kind: StepKind
    request: PlanRequest
    ubatch: int | None = None
    plain: bool = False


class _Narrow(Planner):
    """A planner whose plans read prompts in smaller pieces, and whose files of the named format are of a mix."""

    ubatch: int | None = None
    types: tuple[str, ...] = ()

    def candidates(self, machine: Machine, request: PlanRequest) -> Iterable[Candidate]:
        found = super().candidates(machine, request)
        return (c._replace(types=self.types) for c in found) if self.types else found

    def costing(self, machine: Machine, goal: Goal, request: PlanRequest, tune: Tuning) -> Costing:
        found = super().costing(machine, goal, request, tune)
        if self.ubatch is None:
            return found
        size = self.ubatch

        def narrowed(c: Candidate, settings: Settings) -> Settings:
            tuned = tune(c, settings)
            if c.method != "gguf" or c.runtime not in LLAMA_ENGINES:
                return tuned
            return msgspec.structs.replace(tuned, ubatch=min(tuned.ubatch, size))

        found.tune = narrowed
        return found


def need(plan: Plan, device: str) -> int:
    """Bytes that a plan takes on a device key."""
    if not plan.memory.by_device:
        return int(plan.memory.total.value) if device in (plan.devices or (HOST,)) else 0
    found = plan.memory.by_device.get(device)
    return int(found.value) if found is not None else 0


class Ladder:
    """Steps for one plan that failed.

    Args:
        planner: plans the model, with what was learned of the machine in its costs.
        machine: the machine with the memory that it really has.
        goal: what the plan was for.
        request: what the user had asked for.
        plan: the plan that failed.
        executable_here: ``machine`` is this one.
    """

    def __init__(
        self,
        planner: Planner,
        machine: Machine,
        goal: Goal,
        request: PlanRequest,
        plan: Plan,
        *,
        executable_here: bool = True,
    ) -> None:
        self.planner = _Narrow(
            *(planner.model, planner.tensors, planner.pack, planner.runtimes, planner.quantizers),
            engine=planner.engine,
            cost_fn=planner.cost_fn,
            layers_fn=planner.layers_fn,
            learned=planner.learned,
            lacking=planner.lacking,
        )
        self.machine, self.goal, self.plan, self.here = machine, goal, plan, executable_here
        self.asked = request
        s = plan.settings
        self.slots = max(1, s.parallel)
        self.context = s.context // self.slots
        self.pinned = msgspec.structs.replace(
            request,
            method=plan.method,
            format=plan.format,
            runtime=plan.runtime,
            context=self.context,
            parallel=self.slots,
            kv_type=s.kv_type,
            top=1,
            pareto=False,
        )

    def memory(self, device: str, missing_bytes: int, *, same_artifact: bool = False) -> tuple[LadderStep, ...]:
        """Steps after which the plan takes less on ``device``, by more than ``missing_bytes``, the least loss first.

        Args:
            device: the device key whose memory ran out.
            missing_bytes: what the plan would have had to find there beyond what there is.
            same_artifact: only steps that need no other file and no other runtime.
        """
        found: dict[str, LadderStep] = {}
        for moved in self._single(same_artifact):
            self._add(found, moved, device, missing_bytes)
        for moved in self._several(same_artifact):
            self._add(found, moved, device, missing_bytes)
        if not same_artifact:
            for moved in self._other(several=not found):
                self._add(found, moved, device, missing_bytes)
        return ordered(found)

    def kernels(self) -> tuple[LadderStep, ...]:
        """Steps that leave a runtime, a method or devices whose kernels lack: another format first, then another
        runtime, then the host."""
        found: dict[str, LadderStep] = {}
        plan = self.plan
        self.planner.types = ()
        free = msgspec.structs.replace(self.pinned, method=None, format=None, runtime=None, top=20)
        for s in self.planner.plan(self.machine, self.goal, free).kept:
            c = s.candidate
            same = (c.runtime, c.method, c.target.keys) == (plan.runtime, plan.method, plan.devices)
            if same and (plan.method == "gguf" or c.format == plan.format):
                continue  # one set of kernels serves all types of GGUF
            step = self._step("runtime" if c.runtime != plan.runtime else "format", s, None, None)
            if step is not None:
                found.setdefault(step.plan.id, step)
        return ordered(found)

    # -- moves -------------------------------------------------------------------------------------------------------

    def _single(self, same_artifact: bool) -> Iterator[Moved]:
        plan, s = self.plan, self.plan.settings
        llama = plan.method == "gguf" and plan.runtime in LLAMA_ENGINES
        if llama:
            yield from (Moved("batch", self.pinned, size) for size in _BATCHES if size < s.ubatch)
        if llama and s.kv_type in ("f32", "f16", "bf16"):
            yield from (Moved("kv-type", self._move(kv_type=kind)) for kind in _CACHES)
        elif llama and s.kv_type == "q8_0":
            yield Moved("kv-type", self._move(kv_type="q4_0"))
        if set(plan.devices) - {HOST}:
            yield Moved("layers", self.pinned)
        slots = self.slots
        while slots > 1:
            slots //= 2
            yield Moved("parallel", self._move(parallel=slots))
        yield from (Moved("context", self._move(context=size)) for size in self._contexts())
        if not same_artifact:
            if self.plan.tensor_types:
                yield Moved("format", self.pinned, plain=True)
            yield from (Moved("format", self._move(format=fmt)) for fmt in self._smaller())

    def _several(self, same_artifact: bool) -> Iterator[Moved]:
        """A quantized cache, short pieces and less context at once, then with fewer bits, too."""
        llama = self.plan.method == "gguf" and self.plan.runtime in LLAMA_ENGINES
        narrow, caches = (_BATCHES[1], _CACHES) if llama else (None, (self.plan.settings.kv_type,))
        contexts = (self.context, *self._contexts())
        for size in contexts:
            for kind in caches:
                yield Moved("several", self._move(context=size, kv_type=kind), narrow)
        if not same_artifact:
            for fmt in self._smaller():
                for size in contexts[::2]:
                    yield Moved("several", self._move(context=size, kv_type=caches[0], format=fmt), narrow)

    def _other(self, *, several: bool) -> Iterator[Moved]:
        """Another runtime with whatever it serves best; where nothing else was found, with the shortest context."""
        free = self._move(runtime=None, method=None, format=None, quantizer=None, kv_type=None)
        yield Moved("runtime", free)
        if several:
            shortest = msgspec.structs.replace(free, context=max(MIN_CONTEXT, min(self.context, 2048)))
            yield Moved("runtime", shortest)

    def _move(self, **values: object) -> PlanRequest:
        return msgspec.structs.replace(self.pinned, **values)

    def _contexts(self) -> Iterator[int]:
        size = self.context // 2
        while size >= MIN_CONTEXT:
            yield size
            size //= 2

    def _smaller(self) -> Iterator[str]:
        """Formats of the plan's method with fewer bits, the most bits first."""
        from advisor.planner.candidate import formats

        if self.plan.source == "as-is":
            return
        bits = bits_of(self.plan.format) or 16.0
        tried = formats(self.plan.method, self.planner.model, PlanRequest(), self.planner.tensors)
        smaller = [f for f in tried if (bits_of(f) or 16.0) < bits - 0.2]
        yield from sorted(smaller, key=lambda f: (-(bits_of(f) or 0.0), f))

    # -- steps -------------------------------------------------------------------------------------------------------

    def _add(self, found: dict[str, LadderStep], moved: Moved, device: str, missing: int) -> None:
        """Plan the move; keep the best outcome that frees enough. Of a series only the smallest move that does."""
        if any(s.kind == moved.kind for s in found.values()):
            return
        self.planner.ubatch = moved.ubatch if moved.ubatch is not None else self.plan.settings.ubatch
        if moved.kind == "runtime":
            self.planner.ubatch = None
        same_file = not moved.plain and moved.request.format == self.plan.format
        self.planner.types = self.plan.tensor_types if same_file else ()
        before = need(self.plan, device)
        kept = self.planner.plan(self.machine, self.goal, moved.request).kept
        for s in sorted(kept, key=lambda s: self._rank(s, moved)):
            c = s.candidate
            if moved.kind == "layers" and not self._fewer(s):
                continue
            if moved.kind not in ("layers", "runtime") and not self._same_place(s):
                continue
            if moved.kind == "runtime" and c.runtime == self.plan.runtime and c.method == self.plan.method:
                continue
            frees = before - int(_on(s.cost, c, device))
            if frees <= missing or s.status.status == "elsewhere":
                continue
            step = self._step(moved.kind, s, device, frees)
            if step is not None and step.plan.id != self.plan.id:
                found.setdefault(step.plan.id, step)
                return

    def _rank(self, s: Scored, moved: Moved) -> tuple[object, ...]:
        """Among places, the plan's own first where one thing is moved; else the planner's own order."""
        return (moved.kind != "runtime" and s.candidate.target.keys != self.plan.devices, -s.score, s.candidate.key)

    def _same_place(self, s: Scored) -> bool:
        """Whether layers stay where they are: what moves them is a step of its own."""
        return (
            s.candidate.target.keys == self.plan.devices
            and s.settings.gpu_layers >= self.plan.settings.gpu_layers
            and s.settings.cpu_moe_layers <= self.plan.settings.cpu_moe_layers
        )

    def _fewer(self, s: Scored) -> bool:
        """Whether less of the model is on devices than in the plan."""
        own, keys = set(self.plan.devices), set(s.candidate.target.keys)
        if keys - {HOST} == set():
            return True
        if HOST in keys and HOST not in own:
            return True
        new, old = s.settings, self.plan.settings
        return keys == own and (new.gpu_layers, -new.cpu_moe_layers) < (old.gpu_layers, -old.cpu_moe_layers)

    def _step(self, kind: StepKind, s: Scored, device: str | None, frees: int | None) -> LadderStep | None:
        if s.status.status != "ready":
            return None
        per_slot = s.settings.context // max(1, s.settings.parallel)
        made = build(self.planner.model, s, rank=1, executable_here=self.here, notes=(), per_slot=per_slot)
        changes = list(_changes(self.plan, made))
        if not changes:
            return None
        return LadderStep(
            kind=kind,
            change="; ".join(change for change, _ in changes),
            given_up="; ".join(dict.fromkeys(lost for _, lost in changes)),
            device=device or (self.plan.devices or (HOST,))[0],
            frees_bytes=frees,
            loss=round(self._loss(made), 4),
            plan=made,
        )

    def _loss(self, made: Plan) -> float:
        old, new = self.plan, made
        loss = 0.0
        for term in _TERMS:
            weight = self.goal.weights.get(term, 0.0)
            loss += weight * max(0.0, old.terms.get(term, new.terms.get(term, 0.0)) - new.terms.get(term, 0.0))
        halves = math.log2(max(1.0, self.context / max(1, new.settings.context // max(1, new.settings.parallel))))
        loss += halves * (_HALF_CONTEXT if self.asked.context is None else _HALF_CONTEXT_ASKED)
        loss += _HALF_SLOTS * math.log2(max(1.0, self.slots / max(1, new.settings.parallel)))
        loss += _HALF_BATCH * math.log2(max(1.0, old.settings.ubatch / max(1, new.settings.ubatch)))
        loss += _OTHER_RUNTIME * (old.runtime != new.runtime)
        return loss


def _on(cost: Cost, c: Candidate, device: str) -> float:
    by_device = cost.memory.by_device
    if not by_device:
        return float(cost.memory.total.value) if device in c.target.keys else 0.0
    found = by_device.get(device)
    return float(found.value) if found is not None else 0.0


def ordered(found: dict[str, LadderStep]) -> tuple[LadderStep, ...]:
    """The steps by loss, no more than are looked at."""
    steps = sorted(found.values(), key=lambda s: (s.loss, s.frees_bytes or 0, s.plan.id))
    return tuple(steps[:_MOST])


def _changes(old: Plan, new: Plan) -> Iterator[tuple[str, str]]:
    """(what is moved, what that gives up), for all that differs."""
    a, b = old.settings, new.settings
    if old.runtime != new.runtime:
        yield f"{old.runtime} -> {new.runtime}", f"served by {new.runtime} instead of {old.runtime}"
    if (old.method, old.made_as) != (new.method, new.made_as):
        yield _format(old, new), _quality(old, new)
    per_slot = (a.context // max(1, a.parallel), b.context // max(1, b.parallel))
    if per_slot[0] != per_slot[1]:
        yield f"context {per_slot[0]} -> {per_slot[1]}", f"conversations of {per_slot[1]} tokens at most"
    if a.parallel != b.parallel:
        yield f"{a.parallel} -> {b.parallel} requests at a time", f"only {b.parallel} at a time; others wait"
    if old.imatrix and not new.imatrix and old.method == new.method:
        yield "no importance matrix", "what the matrix says of the weights that count most"
    if a.kv_type != b.kv_type:
        yield f"KV cache {a.kv_type} -> {b.kv_type}", f"some precision of what is remembered ({b.kv_type} cache)"
    if a.ubatch != b.ubatch and old.runtime == new.runtime:
        yield f"prompt pieces of {a.ubatch} -> {b.ubatch} tokens", "some speed of reading long prompts"
    if set(old.devices) != set(new.devices) or (a.gpu_layers, a.cpu_moe_layers) != (b.gpu_layers, b.cpu_moe_layers):
        place = _place(old, new)
        if place is not None:
            yield place, _speed(old, new)


def _format(old: Plan, new: Plan) -> str:
    method = "" if old.method == new.method else f" ({new.method})"
    return f"format {old.made_as} -> {new.made_as}{method}"


def _quality(old: Plan, new: Plan) -> str:
    a, b = old.quality.kld, new.quality.kld
    if a is not None and b is not None and b.value > a.value:
        return f"quality: divergence from the original {a.value:.3g} -> {b.value:.3g} nats"
    fewer = (bits_of(new.format) or 16.0) < (bits_of(old.format) or 16.0)
    return "some quality: fewer bits a weight" if fewer else "the format that was chosen first"


def _place(old: Plan, new: Plan) -> str | None:
    own, keys = set(old.devices) - {HOST}, set(new.devices) - {HOST}
    if not keys and own:
        return f"{', '.join(sorted(own))} -> the host alone"
    a, b = old.settings, new.settings
    if a.cpu_moe_layers != b.cpu_moe_layers:
        return f"experts of {a.cpu_moe_layers} -> {b.cpu_moe_layers} layers on the host"
    if a.gpu_layers != b.gpu_layers and keys:
        return f"layers on {', '.join(sorted(keys))} {a.gpu_layers} -> {b.gpu_layers}"
    return f"{', '.join(sorted(own)) or HOST} -> {', '.join(sorted(keys)) or HOST}" if own != keys else None


def _speed(old: Plan, new: Plan) -> str:
    a, b = old.speed.decode, new.speed.decode
    if a is None or b is None:
        return "speed: less of the model is on devices"
    return f"speed: {a.value:.3g} -> {b.value:.3g} tokens/s"
