"""Ranked plans, why they won, and why the others lost."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final, NamedTuple

from advisor.facts import shown
from advisor.planner.story import GIVES_UP, closest_text

from ..page import FAINT, FAIR, GOOD, STRONG, Cell, Column, quantity_cell
from .reasons import gathered, section, why
from .rejections import rejected

if TYPE_CHECKING:
    from advisor.facts.plan import Goal, Plan
    from advisor.facts.reports import RecommendReport
    from advisor.facts.schemas import RecommendData

    from ..page import Page

_KLD: Final = "KLD: how far its next-token probabilities are from the 16-bit model's, in nats; 0 is the same."
_CLOSEST: Final = 3
_MEMORY: Final = "Memory: of the devices and of the host beside them, together; --preview shows each."
_STATUS: Final = {"ready": GOOD, "needs": FAIR, "elsewhere": FAINT}


class Asked(NamedTuple):
    """What was asked for on the command line; ``None`` leaves it to the goal."""

    context: int | None = None
    parallel: int | None = None
    kv_type: str | None = None
    pareto: bool = False
    preview: bool = False


def data(report: RecommendReport) -> RecommendData:
    """The document's data: the report without what the envelope carries."""
    from advisor.facts.schemas import RecommendData

    own = set(report.__struct_fields__)
    return RecommendData(**{name: getattr(report, name) for name in RecommendData.__struct_fields__ if name in own})


def recommendation(page: Page, report: RecommendReport, *, verbose: bool = False, asked: Asked | None = None) -> None:
    """Write a whole recommendation."""
    _header(page, report, asked or Asked())
    if report.plans:
        page.blank()
        cards = len(report.machine.devices)
        page.table(_COLUMNS, [_row(plan, cards) for plan in report.plans])
        page.text(_scale(report.plans[0], report.goal), FAINT)
        page.text(_KLD, FAINT)
        if any(len(plan.memory.by_device) > 1 for plan in report.plans):
            page.text(_MEMORY, FAINT)
        if asked is not None and asked.pareto:
            page.text("Only plans that no other one beats in quality, speed and memory together.", FAINT)
        if verbose:
            _terms(page, report)
        why(page, report.plans, verbose=verbose)
        section(page, "Against the next best", gathered(report.plans, _against))
    else:
        page.title("Nothing fits")
        closest(page, report)
        relaxations(page, report)
    rejected(page, report.rejected, verbose=verbose)
    if verbose:
        _stages(page, report)
    if report.overlay_rules:
        page.blank()
        page.text("Your own rules took part: " + ", ".join(report.overlay_rules), FAIR)
    if report.plans:
        previewed = asked is not None and asked.preview
        if previewed:
            page.title(f"Preview of plan {report.plans[0].id}")
            _card(page, report.plans[0])
            _by_hand(page, report.plans[0])
        page.blank()
        page.fields(_next(report.plans[0], commands=not previewed))


def _header(page: Page, report: RecommendReport, asked: Asked) -> None:
    model, goal = report.model, report.goal
    page.title(f"{model.name}{f' on {report.machine.named}' if report.machine.named else ''}")
    page.text(
        f"{shown.count(model.params)} parameters, {model.architecture}, {shown.counted(model.layers, 'layer')}; "
        f"{shown.counted(report.candidates_considered, 'way')} considered",
        FAINT,
    )
    if not report.plans:
        held = room(asked.context or goal.context, asked.parallel or goal.parallel, asked.kv_type or "f16")
        page.text(f"For {goal.id}: {held}")
        return
    kinds = gathered(report.plans, lambda plan: [_room(plan)])
    told = [text if label in ("", "all") else f"{text} (plan {label})" for label, text in kinds]
    page.text(f"For {goal.id}: {'; '.join(told)}")


def room(context: int, parallel: int, kv_type: str) -> str:
    """``8,192 tokens of context, 1 slot, f16 KV cache``: what a plan's numbers hold for."""
    tokens = shown.counted(context, "token")
    if parallel > 1:
        return f"{shown.counted(parallel, 'slot')} of {tokens} of context each, {kv_type} KV cache"
    return f"{tokens} of context, 1 slot, {kv_type} KV cache"


def _room(plan: Plan) -> str:
    s = plan.settings
    return room(s.context // s.parallel, s.parallel, s.kv_type)


def _next(first: Plan, *, commands: bool) -> tuple[tuple[str, str], ...]:
    reasons = ("see why", f"advisor explain {first.id}")
    if first.status == "ready" and first.executable_here:
        return (("carry it out", f"advisor up {first.id}"), reasons)
    return (("see the commands", f"advisor up --dry-run {first.id}"), reasons) if commands else (reasons,)


_COLUMNS: Final = (
    Column("#", True),
    Column("plan"),
    Column("method"),
    Column("runtime"),
    Column("memory", True),
    Column("decode", True),
    Column("KLD", True),
    Column("status"),
)


def _row(plan: Plan, cards: int) -> list[str | Cell]:
    return [
        str(plan.rank),
        Cell(plan.id, STRONG if plan.rank == 1 else "", f"score {plan.score:.2f}"),
        Cell(plan.format if plan.method == "gguf" else plan.method, "", _made(plan)),
        Cell(plan.runtime, "", shown.placement(plan, cards)),
        quantity_cell(plan.memory.total),
        quantity_cell(plan.speed.decode),
        quantity_cell(plan.quality.kld),
        Cell(plan.status, _STATUS[plan.status]),
    ]


def _against(plan: Plan) -> list[str]:
    return [plan.against_next] if plan.against_next else []


def _made(plan: Plan) -> str:
    name = "gguf" if plan.method == "gguf" else plan.format
    if plan.artifact is not None:
        return f"{name}, ready-made"
    name += ", mixed types" if plan.tensor_types else ""
    return f"{name}, imatrix" if plan.imatrix else name


def _scale(first: Plan, goal: Goal) -> str:
    """What the score is, in one line."""
    weights = ", ".join(f"{name} {weight:.0%}" for name, weight in goal.weights.items() if weight)
    guide = first.terms.get("guide", 0.0)
    parts = f"{first.score - guide:.2f} {'-' if guide < 0 else '+'} {abs(guide):.2f}"
    return (
        f"Score: the numbers on a scale of 0 to 1 ({weights}), plus or minus what the guide's rules say, at most 1; "
        f"plan {first.rank}: {parts}."
    )


def _terms(page: Page, report: RecommendReport) -> None:
    """The parts of each score, before the goal weighs them."""
    weights = report.goal.weights
    names = [name for name, weight in weights.items() if weight]
    page.title("Parts of the score")
    columns = [Column("#", True), *(Column(f"{n} x{weights[n]:.2f}", True) for n in names), Column("guide", True)]
    rows: list[list[str | Cell]] = [
        [
            str(plan.rank),
            *(f"{plan.terms[n]:.2f}" if n in plan.terms else shown.UNKNOWN for n in names),
            f"{plan.terms.get('guide', 0.0):+.2f}",
            f"{plan.score:.2f}",
        ]
        for plan in report.plans
    ]
    page.table([*columns, Column("score", True)], rows)


_STAGE: Final = {
    "runtime": "method, format and who makes and serves it",
    "devices": "each of these on each set of devices",
    "settings": "layers, experts and shares of each device",
    "memory": "memory, and the limits that you set",
}


def _stages(page: Page, report: RecommendReport) -> None:
    """How many ways there were at each stage."""
    page.title("Ways at each stage")
    page.table(
        [Column("stage"), Column("tried", True), Column("left", True)],
        [[_STAGE[s.stage], str(s.tried), str(s.kept)] for s in report.stages],
    )


def closest(page: Page, report: RecommendReport) -> None:
    """What came closest, with each limit that it misses in figures."""
    near = [r for r in report.rejected if r.misses][:_CLOSEST]
    if near:
        page.text("What came closest:")
        page.bullets(closest_text(r) for r in near)
        page.blank()


def relaxations(page: Page, report: RecommendReport) -> None:
    """What would have to give, each found by planning again, the least first; and how to ask for it."""
    if not report.relaxations:
        page.text("No single change makes it fit.")
        return
    several = len(report.relaxations) > 1
    page.text(f"It would with {'one of these changes, the least first' if several else 'this change'}:")
    page.table(
        [
            *(Column("#", True), Column("change"), Column("method"), Column("runtime")),
            *(Column("memory", True), Column("decode", True)),
        ],
        [
            [
                str(n),
                Cell(r.change, STRONG, GIVES_UP[r.gives_up]),
                Cell(r.plan.format if r.plan.method == "gguf" else r.plan.method, "", _made(r.plan)),
                Cell(r.plan.runtime, "", shown.placement(r.plan, max(cards, len(r.plan.devices) - 1))),
                quantity_cell(r.plan.memory.total),
                quantity_cell(r.plan.speed.decode),
            ]
            for cards in [len(report.machine.devices)]
            for n, r in enumerate(report.relaxations, 1)
        ],
    )
    page.blank()
    page.numbered((str(n), r.command or f"advisor explain {r.plan.id}") for n, r in enumerate(report.relaxations, 1))


def plan_details(page: Page, plan: Plan, *, verbose: bool = False) -> None:
    """One plan alone: what it is, what it takes, and the commands that do the same by hand."""
    page.title(f"Plan {plan.id}: {plan.model}")
    _card(page, plan)
    why(page, (plan,), verbose=verbose)
    section(page, "Against the next best", gathered((plan,), _against))
    _by_hand(page, plan)


def _card(page: Page, plan: Plan) -> None:
    cards = sum(key != "host" for key in plan.devices)
    page.fields(
        [
            (
                "method",
                Cell(f"{plan.method} {plan.format}", "", f"by {plan.quantizer}" if plan.quantizer else ""),
            ),
            *((("types", ", ".join(plan.tensor_types)),) if plan.tensor_types else ()),
            ("runtime", Cell(plan.runtime, "", shown.placement(plan, cards))),
            ("status", Cell(plan.status, _STATUS[plan.status])),
            ("holds", _room(plan)),
            ("memory", quantity_cell(plan.memory.total)),
            *_shares(plan),
            ("decode", quantity_cell(plan.speed.decode)),
            ("prefill", quantity_cell(plan.speed.prefill)),
            ("KLD", quantity_cell(plan.quality.kld)),
            ("quantizing", quantity_cell(plan.time.quantize)),
            ("start", quantity_cell(plan.time.start)),
            ("download", shown.size(plan.disk.download_bytes)),
            ("disk", Cell(shown.size(plan.disk.peak_bytes), "", "at the most")),
        ]
    )


def _shares(plan: Plan) -> list[tuple[str, str | Cell]]:
    """What each device and the host takes, where there is more than one."""
    parts = plan.memory.by_device
    return [(f"  on {key}", quantity_cell(q)) for key, q in sorted(parts.items())] if len(parts) > 1 else []


def _by_hand(page: Page, plan: Plan) -> None:
    commands = [*plan.commands.quantize, *plan.commands.serve]
    if commands:
        page.title("By hand")
        for argv in commands:
            page.verbatim(shlex.join(argv))
