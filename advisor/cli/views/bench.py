"""What was measured: a row a depth and number of threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import FAINT, FAIR, STRONG, Cell, Column

if TYPE_CHECKING:
    from pathlib import Path

    from advisor.facts.bench import Bench, BenchPoint
    from advisor.facts.quantity import Quantity

    from ..page import Page

_COLUMNS = (
    Column("depth", True),
    Column("threads", True),
    Column("decode", True),
    Column("range", True),
    Column("prefill", True),
    Column("range", True),
    Column("CPU share", True),
)


def bench(page: Page, found: Bench, *, verbose: bool = False) -> None:
    """Write the table, what was measured, and where it is kept."""
    page.title(f"{found.model}: {found.format} on {found.runtime} ({found.engine})")
    page.text(found.what, FAINT)
    page.blank()
    page.table(_COLUMNS, [_row(p, found.best_threads) for p in found.points])
    if verbose:
        page.title("Every run")
        page.table(
            [Column("depth", True), Column("threads", True), Column("decode", True), Column("prefill", True),
             Column("wall", True), Column("CPU", True)],
            [
                [
                    str(r.depth),
                    shown.plain(r.threads) if r.threads is not None else "",
                    _rate(r.decode),
                    _rate(r.prefill),
                    shown.seconds(r.wall_s),
                    shown.seconds(r.cpu_s) if r.cpu_s is not None else "",
                ]
                for p in found.points
                for r in p.runs
            ],
        )  # fmt: skip
    if found.stand_ins:
        page.title("Other formats, on files of the same shapes with random weights")
        page.table(
            [Column("format"), Column("threads", True), Column("decode", True), Column("range", True)],
            [[m.format, str(m.threads or ""), _value(m.decode), _range(m.decode)] for m in found.stand_ins],
        )
    page.blank()
    load = f"; load average {' to '.join(f'{x:.1f}' for x in found.load)}" if found.load else ""
    cores = f"{shown.plain(found.cores_granted)} of {shown.counted(found.cores_logical, 'core')} granted"
    page.text(cores + load, FAIR if found.busy else FAINT)
    page.bullets(found.notes)
    if found.file is not None:
        quiet = any(not p.busy for p in found.points)
        follow = "Predictions for this machine follow it from now on. " if quiet else ""
        page.text(f"{follow}Kept in {found.file}", FAINT)


def forgotten(page: Page, path: Path | None) -> None:
    """Say what was removed."""
    page.text(f"Removed {path}." if path is not None else "Nothing has been measured on this machine.")


def bare(found: Bench) -> tuple[str, ...]:
    """One line a row: depth, threads, decode and prefill in tokens a second, ``-`` where unknown."""
    return tuple(
        " ".join(
            (
                str(p.depth),
                str(p.threads) if p.threads is not None else "-",
                *("-" if q is None else f"{q.value:.6g}" for q in (p.decode, p.prefill)),
            )
        )
        for p in found.points
    )


def _row(p: BenchPoint, best: int | None) -> list[str | Cell]:
    threads = "" if p.threads is None else str(p.threads)
    share = "" if p.cpu_share is None else f"{p.cpu_share:.0%}"
    return [
        str(p.depth),
        Cell(threads, STRONG if p.threads == best else ""),
        _value(p.decode),
        _range(p.decode),
        _value(p.prefill),
        _range(p.prefill),
        Cell(share, FAIR if p.busy else ""),
    ]


def _value(q: Quantity | None) -> str:
    return shown.quantity(q)


def _range(q: Quantity | None) -> str:
    return "" if q is None else shown.quantity_range(q)


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} tok/s"
