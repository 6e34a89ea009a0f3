"""What a machine is good for: a line for each size class, then the known models that run best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advisor.facts import shown
from advisor.facts.text import shell_word

from ..page import FAINT, FAIR, GOOD, STRONG, Cell, Column, quantity_cell
from .reasons import cite

if TYPE_CHECKING:
    from advisor.facts.plan import Goal
    from advisor.facts.schemas import RecommendData
    from advisor.facts.suggestions import Choice, SizeClass, SuggestedModel, Suggestions

    from ..page import Page

_STATUS: Final = {"ready": GOOD, "needs": FAIR, "elsewhere": FAINT}
_CLASS_COLUMNS: Final = (
    Column("size"),
    Column("method"),
    Column("runtime"),
    Column("memory", True),
    Column("decode", True),
    Column("context up to", True),
    Column("status"),
)
_MODEL_COLUMNS: Final = (
    Column("#", True),
    Column("model"),
    Column("plan"),
    Column("method"),
    Column("runtime"),
    Column("memory", True),
    Column("decode", True),
    Column("context up to", True),
)


def data(found: Suggestions) -> RecommendData:
    """The document's data."""
    from advisor.facts.schemas import RecommendData

    return RecommendData(
        plans=found.plans,
        rejected=(),
        relaxations=(),
        machine=found.machine,
        model=None,
        goal=found.goal,
        candidates_considered=found.models_considered,
        rules_hash=found.rules_hash,
        overlay_rules=tuple(sorted({d.rule for plan in found.plans for d in plan.decisions if d.overlay})),
        size_classes=found.size_classes,
        models=found.models,
    )


def suggestions(page: Page, found: Suggestions, *, verbose: bool = False) -> None:
    """Write what the machine is good for."""
    goal = found.goal
    page.title(f"What {found.machine.named or 'this machine'} is good for")
    page.text(
        f"For {goal.id}: {shown.counted(goal.context, 'token')} of context, {shown.counted(goal.parallel, 'slot')}"
        + (f", {goal.min_decode_tps:g} tok/s or more" if goal.min_decode_tps is not None else ""),
        FAINT,
    )
    runs = [size for size in found.size_classes if size.choice is not None]
    if runs:
        page.title("By size")
        page.table(_CLASS_COLUMNS, [_size(size, size.choice) for size in runs if size.choice is not None])
        page.text("A typical model of each size; total:active for mixtures of experts.", FAINT)
        _why(page, runs, verbose=verbose)
    too_large = [size for size in found.size_classes if size.choice is None]
    if too_large:
        page.title("What does not run here" if runs or found.models else "Nothing fits")
        page.bullets(_missing(size) for size in too_large)
    if found.models:
        page.title("Known models that run best here")
        page.table(_MODEL_COLUMNS, [_model(m) for m in found.models])
        page.text(_ranking(goal, found), FAINT)
        page.blank()
        first = found.models[0]
        ready = found.plans[0].status == "ready" and found.plans[0].executable_here
        do = ("carry it out", f"advisor up {first.plan_id}")
        see = ("see the commands", f"advisor up --dry-run {first.plan_id}")
        page.fields((("all its plans", f"advisor recommend {shell_word(first.ref)}"), do if ready else see))
    elif runs:
        page.blank()
        page.text(
            "None of the known models runs here with these options; a size can be asked for: advisor recommend 8B"
        )


def _size(size: SizeClass, choice: Choice) -> list[str | Cell]:
    return [
        Cell(size.name, STRONG),
        Cell(*_method(choice)),
        Cell(choice.runtime, "", choice.placement),
        quantity_cell(choice.memory),
        quantity_cell(choice.decode, FAIR if choice.meets_goal is False else ""),
        f"{choice.longest_context:,}",
        Cell(choice.status, _STATUS[choice.status]),
    ]


def _model(m: SuggestedModel) -> list[str | Cell]:
    slow = FAIR if m.choice.meets_goal is False else ""
    return [
        str(m.rank),
        Cell(m.ref, STRONG if m.rank == 1 else "", f"{_parameters(m)}, {m.license or 'license unknown'}"),
        Cell(m.plan_id, "", f"score {m.score:.2f}"),
        Cell(*_method(m.choice)),
        Cell(m.choice.runtime, "", m.choice.placement),
        quantity_cell(m.choice.memory),
        quantity_cell(m.choice.decode, slow),
        f"{m.choice.longest_context:,}",
    ]


def _method(choice: Choice) -> tuple[str, str, str]:
    gguf = choice.method == "gguf"
    return (choice.format if gguf else choice.method, "", "gguf" if gguf else choice.format)


def _parameters(m: SuggestedModel) -> str:
    whole = shown.count(m.params)
    return whole if m.active_params > 0.9 * m.params else f"{whole}, {shown.count(m.active_params)} active"


def _missing(size: SizeClass) -> str:
    short = f" (short by {shown.size(size.short_by, 2)})" if size.short_by is not None else ""
    return f"{size.name}{short}: {size.because}"


def _why(page: Page, runs: list[SizeClass], *, verbose: bool) -> None:
    """Each reason once, with the sizes that it speaks for."""
    said: dict[str, list[str]] = {}
    cited: dict[str, str] = {}
    for size in runs:
        reasons = size.choice.because if size.choice is not None else ()
        for d in reasons if verbose else reasons[:1]:
            said.setdefault(d.because, []).append(size.name)
            cited[d.because] = "; ".join([d.rule, *(cite(s) for s in d.sources)])
    if said:
        page.title("Why")
        page.bullets(f"{shown.listed(names)}: {text} ({cited[text]})" for text, names in said.items())


def _ranking(goal: Goal, found: Suggestions) -> str:
    weights = ", ".join(
        f"{'ability' if name == 'quality' else name} {weight:.0%}" for name, weight in goal.weights.items() if weight
    )
    floor = "those that hold its context at its speed first, then "
    return (
        f"{found.models_fitting} of {found.models_considered} known models fit. Ranked for {goal.id}: {floor}by "
        f"{weights}, each squared. Ability goes by size alone: no benchmark of models is consulted. Of one maker's "
        "family the newest of a size is listed, none of 2023, and no model that is made for something else."
    )
