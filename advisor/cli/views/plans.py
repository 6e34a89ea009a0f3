"""Ranked plans, why they won, and why the others lost."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from .. import numbers
from ..page import BAD, FAINT, FAIR, GOOD, STRONG, Cell, Column, quantity_cell

if TYPE_CHECKING:
    from advisor.facts.plan import Decision, Plan, Rejected, SourceRef
    from advisor.facts.reports import RecommendReport
    from advisor.facts.schemas import RecommendData

    from ..page import Page

_STATUS = {"ready": GOOD, "needs": FAIR, "elsewhere": FAINT}
_REASONS = 3
_REJECTED = 8


def data(report: RecommendReport) -> RecommendData:
    """The document's data: the report without what the envelope carries."""
    from advisor.facts.schemas import RecommendData

    return RecommendData(**{name: getattr(report, name) for name in RecommendData.__struct_fields__})


def recommendation(page: Page, report: RecommendReport, *, verbose: bool = False) -> None:
    """Write a whole recommendation."""
    model, goal = report.model, report.goal
    where = f" on {report.machine.named}" if report.machine.named else ""
    page.title(f"{model.name}{where}, for {goal.id}")
    page.text(
        f"{numbers.count(model.params)} parameters, {model.architecture}, {model.layers} layers; "
        f"{report.candidates_considered} ways considered",
        FAINT,
    )
    if report.plans:
        page.blank()
        page.table(_COLUMNS, [_row(plan) for plan in report.plans])
        page.title("Why")
        shared = _shared(report.plans)
        for plan in report.plans:
            _why(page, plan, verbose=verbose, leave_out=shared)
        page.bullets((f"warning, for all of them: {text}" for text in shared), FAIR)
    else:
        page.title("Nothing fits")
        relaxations(page, report)
    rejected(page, report.rejected, verbose=verbose)
    if report.overlay_rules:
        page.blank()
        page.text("Your own rules took part: " + ", ".join(report.overlay_rules), FAIR)
    if report.plans:
        page.blank()
        first = report.plans[0]
        runs = first.status == "ready" and first.executable_here
        act = f"advisor up {first.id}" if runs else f"advisor up --dry-run {first.id}"
        page.fields((("carry it out" if runs else "see the commands", act), ("see why", f"advisor explain {first.id}")))


_COLUMNS = (
    Column("#", True),
    Column("plan"),
    Column("method"),
    Column("runtime"),
    Column("memory", True),
    Column("decode", True),
    Column("KLD", True),
    Column("status"),
)


def _row(plan: Plan) -> list[str | Cell]:
    return [
        str(plan.rank),
        Cell(plan.id, STRONG if plan.rank == 1 else ""),
        Cell(plan.format if plan.method == "gguf" else plan.method, "", _made(plan)),
        plan.runtime,
        quantity_cell(plan.memory.total),
        quantity_cell(plan.speed.decode),
        quantity_cell(plan.quality.kld),
        Cell(plan.status, _STATUS[plan.status]),
    ]


def _made(plan: Plan) -> str:
    name = "gguf" if plan.method == "gguf" else plan.format
    if plan.artifact is not None:
        return f"{name}, ready-made"
    return f"{name}, imatrix" if plan.imatrix else name


def cite(source: SourceRef) -> str:
    """``guide 000 section 7``, or a document's title."""
    if source.doc:
        return f"guide {source.doc} section {source.section}" if source.section else f"guide {source.doc}"
    title = source.title or source.url or "unnamed source"
    return f"{title} {source.version}" if source.version else title


def reason(decision: Decision) -> str:
    """``because (RULE; citation)``."""
    told = "; ".join([decision.rule + (" (your rule)" if decision.overlay else ""), *map(cite, decision.sources[:2])])
    return f"{decision.because} ({told})"


def _shared(plans: tuple[Plan, ...]) -> tuple[str, ...]:
    """Warnings that every plan carries; said once. A single plan says its own."""
    if len(plans) < 2:
        return ()
    return tuple(text for text in plans[0].warnings if all(text in plan.warnings for plan in plans))


def _why(page: Page, plan: Plan, *, verbose: bool, leave_out: tuple[str, ...] = ()) -> None:
    # What a rule warns of is among the plan's warnings.
    spoken = [d for d in plan.decisions if verbose or d.effect != "warn"]
    decisions = spoken if verbose else spoken[:_REASONS]
    reasons = [reason(d) for d in decisions] or ["No rule speaks for or against it; ranked by its numbers."]
    if plan.artifact is not None:
        reasons.insert(0, f"It is fetched ready-made: {plan.artifact}.")
    if plan.needs:
        reasons.append("It needs: " + "; ".join(plan.needs) + ".")
    page.numbered((f"{plan.rank}." if i == 0 else "  ", text) for i, text in enumerate(reasons))
    if verbose:
        page.bullets((f"assumed: {text}" for text in plan.assumptions), FAINT)
    page.bullets((f"warning: {text}" for text in plan.warnings if text not in leave_out), FAIR)


def relaxations(page: Page, report: RecommendReport) -> None:
    """What would have to give, each found by planning again."""
    if not report.relaxations:
        page.text("No single change makes it fit.")
        return
    page.text("It would with one of these changes:")
    page.table(
        [Column("change"), Column("method"), Column("runtime"), Column("memory", True), Column("decode", True)],
        [
            [
                Cell(r.change, STRONG),
                f"{r.plan.method} {r.plan.format}",
                r.plan.runtime,
                quantity_cell(r.plan.memory.total),
                quantity_cell(r.plan.speed.decode),
            ]
            for r in report.relaxations
        ],
    )


def rejected(page: Page, dropped: tuple[Rejected, ...], *, verbose: bool = False) -> None:
    """The options that were dropped: each one with ``verbose``, otherwise gathered by the reason."""
    if not dropped:
        return
    page.title(f"Rejected ({len(dropped)})")
    if verbose:
        page.table(_REJECTED_COLUMNS, [_dropped(r) for r in dropped])
        return
    groups: dict[tuple[str, str], list[Rejected]] = {}
    for r in dropped:
        groups.setdefault((r.rule, r.because), []).append(r)
    # What only lacks memory is what a user can do something about.
    ranked = sorted(groups.values(), key=lambda g: (all(r.short_by is None for r in g), len(g)))
    page.table(_REJECTED_COLUMNS, [_gathered(group) for group in ranked[:_REJECTED]])
    rest = sum(len(group) for group in ranked[_REJECTED:])
    if rest:
        page.text(f"and {rest} more for other reasons", FAINT)
    page.text("--verbose shows each one.", FAINT)


_REJECTED_COLUMNS = (
    Column("options"),
    Column("rule"),
    Column("short by", True),
    Column("because"),
)


def _dropped(r: Rejected) -> list[str | Cell]:
    return [
        f"{r.method} {r.format} on {r.runtime}",
        r.rule,
        Cell(numbers.size(r.short_by), BAD) if r.short_by is not None else "",
        Cell(r.because, "", f"instead: {', '.join(r.instead)}" if r.instead else ""),
    ]


def _gathered(group: list[Rejected]) -> list[str | Cell]:
    first = min(group, key=lambda r: r.short_by if r.short_by is not None else 1 << 62)
    more = f"and {len(group) - 1} more" if len(group) > 1 else ""
    return [Cell(f"{first.method} {first.format} on {first.runtime}", "", more), *_dropped(first)[1:]]


def plan_details(page: Page, plan: Plan, *, verbose: bool = False) -> None:
    """One plan alone: what it is, what it takes, and the commands that do the same by hand."""
    page.title(f"Plan {plan.id}: {plan.model}")
    page.fields(
        [
            ("method", Cell(f"{plan.method} {plan.format}", "", plan.quantizer or "")),
            ("runtime", plan.runtime),
            ("status", Cell(plan.status, _STATUS[plan.status], "; ".join(plan.needs))),
            ("context", f"{plan.settings.context} tokens in {plan.settings.parallel} slots"),
            ("memory", quantity_cell(plan.memory.total)),
            ("decode", quantity_cell(plan.speed.decode)),
            ("prefill", quantity_cell(plan.speed.prefill)),
            ("KLD", quantity_cell(plan.quality.kld)),
            ("quantizing", quantity_cell(plan.time.quantize)),
            ("start", quantity_cell(plan.time.start)),
            ("download", numbers.size(plan.disk.download_bytes)),
            ("disk", Cell(numbers.size(plan.disk.peak_bytes), "", "at the most")),
        ]
    )
    commands = [*plan.commands.quantize, *plan.commands.serve]
    if commands:
        page.title("By hand")
        for argv in commands:
            page.verbatim(shlex.join(argv))
    page.title("Why")
    _why(page, plan, verbose=verbose)
