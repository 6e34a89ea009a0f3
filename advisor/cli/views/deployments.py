"""What is being served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import BAD, FAINT, FAIR, GOOD, STRONG, Cell, Column

if TYPE_CHECKING:
    from advisor.facts.results import Deployment

    from ..page import Page

_STATE = {
    "starting": FAIR,
    "loading": FAIR,
    "ready": GOOD,
    "unhealthy": BAD,
    "stopping": FAIR,
    "stopped": FAINT,
    "failed": BAD,
    "lost": BAD,
}
# The address stands last, where it is never cut.
_COLUMNS = tuple(Column(title) for title in ("name", "state", "runtime", "address"))


def deployments(page: Page, found: tuple[Deployment, ...], *, verbose: bool = False) -> None:
    """A table, or each deployment in full with ``verbose``."""
    if not found:
        page.text("Nothing is deployed. Start with: advisor up")
        return
    if verbose:
        for one in found:
            deployment(page, one)
        return
    page.table(
        _COLUMNS,
        [
            (
                Cell(d.name, STRONG, d.model if d.model != d.name else ""),
                Cell(d.state, _STATE[d.state], d.reason or ""),
                Cell(d.runtime, "", d.provider or ""),
                d.openai_base_url,
            )
            for d in found
        ],
    )


def mending(page: Page, found: tuple[Deployment, ...]) -> None:
    """What to type where a deployment is not as it should be."""
    for d in found:
        if d.state in ("failed", "lost"):
            page.text(
                f"{d.name} is {d.state}. Start it again: advisor restart {d.name}; its log: advisor logs {d.name}"
            )
        elif d.state in ("ready", "loading") and d.reason:
            page.text(f"{d.name} is {d.state}, but {d.reason}. As it was: advisor restart {d.name}")


def stopped(page: Page, found: tuple[Deployment, ...], *, verbose: bool = False) -> None:
    """What was stopped."""
    if found:
        deployments(page, found, verbose=verbose)
    else:
        page.text("Nothing is running.")


def deployment(page: Page, d: Deployment) -> None:
    """One deployment in full."""
    page.title(d.name)
    rows: list[tuple[str, str | Cell]] = [
        ("state", Cell(d.state, _STATE[d.state], d.reason or "")),
        ("address", d.openai_base_url),
        ("model", d.model),
        ("runtime", Cell(d.runtime, "", d.provider or "")),
        ("artifact", d.artifact),
        ("plan", d.plan_id),
    ]
    if d.pid is not None:
        rows.append(("process", str(d.pid)))
    if d.started_at:
        rows.append(("started", shown.moment(d.started_at)))
    if d.restarts:
        rows.append(("restarts", str(d.restarts)))
    if d.memory is not None:
        part = f"{shown.size(d.memory.bytes)} of {shown.size(d.memory.limit_bytes)}"
        rows.append(("memory", Cell(part, BAD if d.memory.near else "", f"used of {d.memory.where}")))
    for step in d.recovered:
        rows.append(("recovered", Cell(step.change or "", FAIR, f"given up: {step.given_up}")))
    if d.api_key_file:
        rows.append(("key file", d.api_key_file))
    if d.log:
        rows.append(("log", d.log))
    page.fields(rows)


def bare(found: tuple[Deployment, ...]) -> tuple[str, ...]:
    """One line a deployment, for ``--quiet``."""
    return tuple(f"{d.name} {d.state} {d.openai_base_url}" for d in found)
