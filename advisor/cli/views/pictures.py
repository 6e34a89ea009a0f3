"""What the commands draw: plans by speed and quality, memory against context, a comparison's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from advisor.facts import shown

from .plotting.chart import Chart, Limit, Line, Mark, context_axis, log_axis, memory_axis, tokens

if TYPE_CHECKING:
    from advisor.facts.comparison import Comparison, Row
    from advisor.facts.machine import Machine
    from advisor.facts.plan import Plan
    from advisor.facts.reports import RecommendReport
    from advisor.planner.curves import Choice, Curves

# KL divergence that cannot be told from nothing on a short text.
_LEAST_KLD: Final = 1e-4
_KLD: Final = "KL divergence from 16 bits, nats (better above)"


def plans(report: RecommendReport) -> Chart:
    """Decode speed against quality of the plans; the first one is marked as chosen."""
    shared: dict[tuple[float, float, str], list[Plan]] = {}
    for p in report.plans:
        decode, kld = p.speed.decode, p.quality.kld
        if decode is not None and kld is not None:
            at = (float(decode.value), max(_LEAST_KLD, float(kld.value)), name(p.method, p.format))
            shared.setdefault(at, []).append(p)
    most = max((float(p.memory.total.value) for p in report.plans), default=1.0)
    present = list(dict.fromkeys(_kind_word(p.method) for group in shared.values() for p in group))
    marks = tuple(
        Mark(
            x=speed,
            y=kld,
            label=f"{label}, {', '.join(dict.fromkeys(p.runtime for p in group))}",
            told=f"{label} in {shown.listed(list(dict.fromkeys(p.runtime for p in group)), 'or')}: "
            f"{shown.quantity(group[0].speed.decode)}, KLD {shown.quantity(group[0].quality.kld)}, "
            f"{shown.quantity(group[0].memory.total)}" + (" (chosen)" if group[0].rank == 1 else ""),
            kind=present.index(_kind_word(group[0].method)),
            size=float(group[0].memory.total.value) / most,
            hollow=group[0].status != "ready",
            chosen=group[0].rank == 1,
        )
        for (speed, kld, label), group in shared.items()
    )
    where = report.machine.named or "this machine"
    left_out = len(report.plans) - sum(len(group) for group in shared.values())
    first = report.plans[0] if report.plans else None
    return Chart(
        title=f"{report.model.name} on {where}: speed and quality",
        description=f"Plans for {report.goal.id} by predicted decode speed and loss of quality. "
        + (f"Chosen: {name(first.method, first.format)} in {first.runtime}." if first is not None else ""),
        x=log_axis("decode, tokens/s (better to the right)", (m.x for m in marks)),
        y=log_axis(_KLD, (m.y for m in marks), flipped=True),
        marks=marks,
        legend=tuple((n, word) for n, word in enumerate(present)),
        notes=(
            f"Larger marks take more memory, up to {shown.size(most, 3)}. {_memory(report.machine)}",
            *([f"Not drawn, because speed or quality is not known: {left_out}."] if left_out else ()),
        ),
    )


def memory(found: Curves, chosen: Choice | None = None) -> Chart:
    """Memory against context for several choices, with the machine's limits."""
    lines = tuple(
        Line(
            points=tuple((float(p.context), float(p.bytes), p.fits is not False) for p in curve.points),
            label=_choice_name(curve.choice, found),
            kind=n,
            strong=curve.choice == chosen,
        )
        for n, curve in enumerate(found.curves)
    )
    values = [y for line in lines for _, y, _ in line.points]
    most = max(values, default=1.0)
    # A limit far above all that is drawn would press the curves together: it is told instead.
    drawn = [b for b in found.bounds if b.bytes <= most * 1.6]
    limits = tuple(Limit(float(b.bytes), f"{b.name}: {shown.size(b.bytes, 3)}") for b in drawn)
    above = [f"{b.name}: {shown.size(b.bytes, 3)}" for b in found.bounds if b not in drawn]
    slots = f", {shown.counted(found.parallel, 'slot')}" if found.parallel > 1 else ""
    strong = next((c for c in found.curves if c.choice == chosen), None)
    at = next((p for p in strong.points if p.context == found.asked), None) if strong is not None else None
    notes = [f"Limits leave 5% of each memory free; {found.kv_type} KV cache{slots}. Faint: beyond a limit."]
    notes += [f"Not drawn, because it is far above: {shown.listed(above)}."] if above else []
    marks: tuple[Mark, ...] = ()
    if at is not None and chosen is not None:
        told = f"{tokens(at.context)}: {shown.size(at.bytes, 3)}"
        kind = next(n for n, c in enumerate(found.curves) if c is strong)
        marks = (Mark(float(at.context), float(at.bytes), told, f"{chosen.format} at {told}", kind, 0.2, chosen=True),)
    return Chart(
        title=f"{found.model} on {found.machine or 'this machine'}: memory against context",
        description="Predicted memory while serving, by tokens of context. "
        + (" ".join(f"{b.name} has room for {shown.size(b.bytes, 3)}." for b in found.bounds)),
        x=context_axis(p.context for c in found.curves for p in c.points),
        y=memory_axis("memory while serving", max([most, *(limit.y for limit in limits)])),
        marks=marks,
        lines=lines,
        limits=limits,
        notes=tuple(notes),
    )


class Dot(NamedTuple):
    """A row of a comparison that has a place in the picture."""

    name: str
    memory: float
    kld: float
    decode: float | None
    measured: bool


def dots(found: Comparison) -> list[Dot]:
    """Rows with memory and quality; what was measured goes before what was predicted."""
    placed = (_dot(r) for r in found.rows)
    return [dot for dot in placed if dot is not None]


def _dot(r: Row) -> Dot | None:
    for side, measured in ((r.measured, True), (r.predicted, False)):
        if side is not None and side.memory is not None and side.kld is not None:
            decode = float(side.decode.value) if side.decode is not None else None
            kld = max(_LEAST_KLD, float(side.kld.value))
            return Dot(name(r.method, r.format), float(side.memory.value), kld, decode, measured)
    return None


def comparison(found: Comparison) -> Chart:
    """Memory across, loss of quality up, speed as the size of the mark."""
    placed = dots(found)
    fastest = max((d.decode or 0.0 for d in placed), default=1.0) or 1.0
    marks = []
    for d in placed:
        speed = "speed not known" if d.decode is None else f"{d.decode:.1f} tok/s"
        told = f"{d.name}: {shown.size(int(d.memory))}, KLD {d.kld:.4f}, {speed}, "
        told += "measured" if d.measured else "predicted"
        marks.append(Mark(d.memory, d.kld, d.name, told, 0 if d.measured else 1, ((d.decode or 0.0) / fastest) ** 0.5))
    kinds = {m.kind for m in marks}
    return Chart(
        title=f"{found.model.name}: memory, quality and speed of each method",
        description="Methods by memory while serving and loss of quality; larger marks decode faster.",
        x=memory_axis("memory while serving", max((d.memory for d in placed), default=1.0)),
        y=log_axis(_KLD, (d.kld for d in placed), flipped=True),
        marks=tuple(marks),
        legend=tuple((n, word) for n, word in enumerate(("measured", "predicted")) if n in kinds),
        notes=(f"Larger marks decode faster, up to {fastest:.1f} tok/s." if placed else "No row has numbers.",),
    )


def name(method: str, fmt: str) -> str:
    """What a method and its format are called in a picture."""
    return fmt if method in ("gguf", "none", fmt) else f"{method} {fmt}"


def _kind_word(method: str) -> str:
    return "16 bits" if method == "none" else method


def _choice_name(choice: Choice, found: Curves) -> str:
    label = name(choice.method, choice.format)
    several = len({c.choice.runtime for c in found.curves}) > 1
    return f"{label}, {choice.runtime}" if several else label


def _memory(machine: Machine) -> str:
    """The machine's memories, as a plan may use them."""
    from advisor.planner.curves import bounds

    return "Room: " + "; ".join(f"{b.name} {shown.size(b.bytes, 3)}" for b in bounds(machine)) + "."
