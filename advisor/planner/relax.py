"""Where nothing fits: what would have to give, found by really planning again with one thing moved.

Best first means what gives up least, in the order of ``ORDER``: nothing but other programs' memory; a choice of how the
model is made and served; a limit of speed, time, size or quality; some of what it can hold (a narrower KV cache, down
to a quarter of the context or the slots); advisor's own deployments that run; money for hardware; most of what it can
hold; the model itself. Within one kind the smallest step comes first: the narrower choice, the fewer halvings, the
fewer bytes; then the better score.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from advisor.facts.machine import Machine
from advisor.facts.plan import Goal, PlanRequest, Relaxation
from advisor.planner import moves
from advisor.planner.again import Named, command
from advisor.planner.building import build
from advisor.planner.request import effective_goal

if TYPE_CHECKING:
    from advisor.cost.estimate import Cost
    from advisor.planner.beside import Beside
    from advisor.planner.moves import Move
    from advisor.planner.recommend import Planner, Round

ORDER: Final = ("nothing", "choice", "limit", "capacity", "deployment", "hardware", "much-capacity", "model")
_WISHES: Final = (
    *(("method", "--method"), ("format", "--format"), ("runtime", "--runtime"), ("quantizer", "--quantizer")),
    *(("kv_type", "--kv-type"), ("min_tps", "--min-tps"), ("max_memory_bytes", "--max-memory")),
    *(("min_quality", "--min-quality"), ("within_s", "--within")),
)


class _Kinds:
    """Ways of a method, format and runtime that only limits stood against, wherever they would run."""

    def __init__(self, found: Round) -> None:
        drops = [d.candidate for d in found.dropped if d.late]
        self._known = {(c.method, c.format if c.method == "gguf" else "", c.runtime) for c in drops}

    def __contains__(self, way: object) -> bool:
        return isinstance(way, tuple) and way[:3] in self._known

    def __bool__(self) -> bool:
        return bool(self._known)


def relaxations(
    planner: Planner,
    machine: Machine,
    goal: Goal,
    request: PlanRequest,
    *,
    found: Round,
    executable_here: bool,
    named: Named | None = None,
    beside: Beside | None = None,
) -> tuple[Relaxation, ...]:
    """The changes, each alone, after which there is a plan; with that plan, and the command that asks for it.

    Args:
        found: what planning as asked came to: nothing kept.
        named: how model and machine were named on the command line.
        beside: advisor's own deployments, which run on the machine.
    """
    named = named if named is not None else Named(model=(planner.model.ref,))
    out: list[tuple[tuple[object, ...], Relaxation]] = []
    for move in _moves(planner, machine, goal, request, found, named, beside):
        again = (move.planner or planner).plan(move.machine, goal, move.request)
        if not again.kept:
            continue
        plan = build(
            (move.planner or planner).model,
            again.kept[0],
            rank=1,
            executable_here=executable_here and move.here and move.planner is None,
            notes=again.notes,
            per_slot=again.goal.context,
        )
        told = Relaxation(
            change=move.change,
            plan=plan,
            gives_up=move.gives_up,
            command=_command(move),
            deployments=move.ended,
        )
        out.append(((ORDER.index(move.gives_up), move.amount, -plan.score, move.change), told))
    if not out:
        return _without_wishes(planner, machine, goal, request, executable_here=executable_here, named=named)
    return tuple(told for _, told in sorted(out, key=lambda o: o[0]))


def _command(move: Move) -> str | None:
    if move.named is None:
        return None
    return " && ".join((*(o.command for o in move.ended), command(move.named, move.request)))


def _moves(
    planner: Planner,
    machine: Machine,
    goal: Goal,
    request: PlanRequest,
    found: Round,
    named: Named,
    beside: Beside | None,
) -> Iterator[Move]:
    """What is worth planning again: what is dear only where memory or speed stood in the way."""
    limited = _Kinds(found)

    def works(where: Machine, wanted: PlanRequest) -> bool:
        # What the model, the device or the runtime rules out stays ruled out, unless a choice is moved.
        same = (wanted.recipe, wanted.format) == (request.recipe, request.format)
        only = limited if same and (request.kv_type in (None, *moves.WIDE_KV)) else None
        return bool(planner.plan(where, goal, wanted, only=only, first=True).kept)

    asked = moves.Asked(machine, goal, request, named, works)
    rules = {d.rule.id[:3] for d in found.dropped if d.late}
    tight = any(d.short_by is not None for d in found.dropped)
    yield from moves.idle(asked, beside)
    if tight or "SPD" in rules:  # memory that others have may also be what makes it slow
        yield from moves.ended(asked, beside)
    yield from moves.choices(asked)
    yield from moves.limits(asked)
    # A shorter context frees no more than the cache and the work buffers.
    near = any(
        d.short_by is not None and d.cost is not None and d.short_by <= _shrinking(d.cost) for d in found.dropped
    )
    if near or not tight or request.kv_type not in (None, *moves.WIDE_KV):
        yield from moves.caches(asked)
    if near:
        yield from moves.capacities(asked, effective_goal(goal, request, planner.model)[0])
    if tight or "SPD" in rules:
        yield from moves.hardware(asked)
    if tight or rules & {"SPD", "TIM"}:
        yield from moves.smaller_models(asked, planner)


def _shrinking(cost: Cost) -> float:
    """Bytes of what becomes smaller with the context."""
    return cost.memory.kv_cache.value + cost.memory.compute.value + cost.memory.output.value


def _without_wishes(
    planner: Planner, machine: Machine, goal: Goal, request: PlanRequest, *, executable_here: bool, named: Named
) -> tuple[Relaxation, ...]:
    """Where no single change helps: all wishes for a method, format, runtime and limits dropped at once."""
    from advisor.facts.recipe import RecipeOptions
    from advisor.facts.shown import listed

    wished = [option for name, option in _WISHES if getattr(request, name) is not None]
    wished += ["the quantizer's values"] if request.recipe != RecipeOptions() else []
    if len(wished) < 2:
        return ()
    free = msgspec.structs.replace(request, recipe=RecipeOptions(), **{name: None for name, _ in _WISHES})
    again = planner.plan(machine, goal, free)
    if not again.kept:
        return ()
    plan = build(
        planner.model,
        again.kept[0],
        rank=1,
        executable_here=executable_here,
        notes=again.notes,
        per_slot=again.goal.context,
    )
    return (Relaxation(change=f"without {listed(wished)}", plan=plan, gives_up="choice", command=command(named, free)),)


__all__ = ["ORDER", "relaxations"]
