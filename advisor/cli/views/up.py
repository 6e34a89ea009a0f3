"""What ``up`` has done: the address, an answer of the model, the receipt, and how to stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown
from advisor.facts.quantity import total

from ..page import FAINT, FAIR, GOOD, Cell, Column
from . import plans, receipt
from . import verification as quality

if TYPE_CHECKING:
    from advisor.facts.results import Deployment, UpResult

    from ..page import Page


def up(page: Page, done: UpResult, *, verbose: bool = False) -> None:
    """Write the result; a dry run shows the plan and its steps instead."""
    _shown(page, done, verbose=verbose)
    own = sorted({d.rule for d in done.plan.decisions if d.overlay})
    if own:
        page.blank()
        page.text(f"Your own rules took part: {', '.join(own)}", FAIR)


def _shown(page: Page, done: UpResult, *, verbose: bool) -> None:
    if done.deployment is None:
        _dry(page, done, verbose=verbose)
        return
    _address(page, done.deployment)
    if done.receipt is not None and done.receipt.answer:
        page.title("It says")
        page.text(done.receipt.answer)
    if done.receipt is not None:
        launched = next((step for step in done.steps if step.name == "launch"), None)
        reused = launched is not None and launched.outcome == "reused"
        receipt.receipt(page, done.receipt, reused_from=done.deployment.started_at if reused else None)
    if verbose and done.verification is not None:
        quality.verification(page, done.verification, verbose=verbose)
    name = done.deployment.name
    page.blank()
    page.fields(
        (
            ("stop it", f"advisor down {name}"),
            ("look at it", f"advisor status {name}"),
            ("read its log", f"advisor logs {name} -f"),
        )
    )


def _address(page: Page, deployment: Deployment) -> None:
    page.title(f"{deployment.model} is being served")
    rows: list[tuple[str, str | Cell]] = [
        ("address", Cell(deployment.openai_base_url, GOOD, "OpenAI API")),
        ("model", deployment.model),
        ("name", deployment.name),
        ("plan", deployment.plan_id),
    ]
    if deployment.api_key_file:
        rows.append(("key file", deployment.api_key_file))
    page.fields(rows)


def _dry(page: Page, done: UpResult, *, verbose: bool) -> None:
    plans.plan_details(page, done.plan, verbose=verbose)
    if done.steps:
        page.title("Steps")
        page.table(
            [Column("step"), Column("outcome"), Column("detail")],
            [[s.name, s.outcome, s.detail or ""] for s in done.steps],
        )
    page.blank()
    times = [q for q in (done.plan.time.fetch, done.plan.time.quantize, done.plan.time.start) if q is not None]
    whole = total(times, "sum of its parts") if times else None
    about = f" It would take about {shown.quantity(whole)} ({shown.origin(whole)})." if whole is not None else ""
    runs = done.plan.status == "ready" and done.plan.executable_here
    page.text(f"Nothing was changed.{about}" + (f" Carry it out: advisor up {done.plan.id}" if runs else ""), FAINT)


def bare(done: UpResult) -> tuple[str, ...]:
    """The address, or the plan's id for a dry run."""
    return (done.deployment.openai_base_url if done.deployment is not None else done.plan.id,)
