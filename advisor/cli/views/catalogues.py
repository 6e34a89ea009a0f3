"""Hardware profiles, bundled models, goals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advisor.facts import shown

from ..page import FAINT, STRONG, Cell, Column
from .reasons import cite

if TYPE_CHECKING:
    from advisor.facts.model import ModelFacts
    from advisor.facts.plan import Goal
    from advisor.facts.reports import HardwareInfo, ModelInfo, Runs

    from ..page import Page


def hardware(page: Page, found: tuple[HardwareInfo, ...], *, model: str | None = None) -> None:
    """A table of profiles; for a model, of those that hold it."""
    listed = [p for p in found if p.runs is None or p.runs.fits is not False]
    if not listed:
        page.text("No known hardware is like that.", FAINT)
        return
    columns = [Column("id"), Column("name"), Column("vendor"), Column("memory", True), Column("bandwidth", True)]
    page.table(
        [*columns, *(_RUNS if model else ())],
        [
            [
                Cell(p.id, STRONG),
                p.name,
                p.vendor,
                shown.size(p.memory_bytes),
                shown.bandwidth(p.bandwidth_bytes_per_s),
                *(_runs(p.runs) if model else ()),
            ]
            for p in listed
        ],
    )
    page.text("Numbers are from the profiles' tables.", FAINT)
    if model:
        _told(page, model, [p.runs for p in found if p.runs is not None], len(listed))


_RUNS: Final = (Column("fits"), Column("takes", True), Column("decode", True))


def _runs(found: Runs | None) -> list[str | Cell]:
    if found is None:
        return [shown.UNKNOWN] * len(_RUNS)
    fits = "unknown" if found.fits is None else "yes" if found.fits else "no"
    return [
        fits,
        shown.quantity(found.memory),
        shown.quantity(found.decode),
    ]  # one line each, so that they can be searched


def _told(page: Page, of: str, every: list[Runs], listed: int) -> None:
    """What the numbers of a list hold for, and how much is not in it."""
    if every:
        most = max(r.context for r in every)
        page.text(
            f"For {of}: {every[0].format} in llama.cpp, whole on the device, with {shown.counted(most, 'token')} of "
            f"context; predicted, with the ranges that `estimate` shows. {shown.counted(len(every) - listed, 'other')} "
            "cannot be held whole.",
            FAINT,
        )


def profile(page: Page, found: HardwareInfo) -> None:
    """One profile in full."""
    page.title(f"{found.id}: {found.name}")
    page.fields(
        [
            ("vendor", found.vendor),
            ("architecture", found.arch or shown.UNKNOWN),
            ("cores", shown.plain(found.cores)),
            ("memory", Cell(shown.size(found.memory_bytes), "", "table")),
            ("bandwidth", Cell(shown.bandwidth(found.bandwidth_bytes_per_s), "", "table")),
            ("compute capability", shown.plain(found.compute_capability)),
            ("formats", ", ".join(f"{name} {how}" for name, how in found.formats.items()) or shown.UNKNOWN),
            ("also called", ", ".join(found.aliases) or "nothing else"),
            ("PCI ids", ", ".join(found.pci_ids) or "none: not a device on the bus"),
        ]
    )
    if found.notes:
        page.title("Notes")
        page.bullets(found.notes)
    if found.sources:
        page.title("Sources")
        page.bullets(found.sources, FAINT)


def models(page: Page, found: tuple[ModelInfo, ...], *, hardware: str | None = None) -> None:
    """A table of models; for hardware, of those that it holds."""
    listed = [m for m in found if m.runs is None or m.runs.fits is not False]
    if not listed:
        page.text("No known model is like that.", FAINT)
        return
    columns = [Column("model"), Column("parameters", True), Column("active", True), Column("context", True)]
    page.table(
        [*columns, *(_RUNS if hardware else (Column("architecture"), Column("license")))],
        [
            [
                Cell(m.ref, STRONG, m.name if m.name != m.ref else ""),
                shown.count(m.params),
                shown.count(m.active_params if m.active_params is not None else m.params),
                f"{m.context_max:,}" if m.context_max is not None else shown.UNKNOWN,
                *(_runs(m.runs) if hardware else (m.architecture or shown.UNKNOWN, m.license or shown.UNKNOWN)),
            ]
            for m in listed
        ],
    )
    if hardware:
        _told(page, hardware, [m.runs for m in found if m.runs is not None], len(listed))


def model(page: Page, found: ModelFacts) -> None:
    """One model in full."""
    page.title(found.name)
    experts = f"{found.experts_used} of {found.experts}" if found.experts else "none"
    page.fields(
        [
            ("reference", found.ref),
            ("architecture", found.architecture),
            ("parameters", Cell(shown.count(found.params), "", _confidence(found.confidence))),
            ("active parameters", shown.count(found.active_params)),
            ("layers", str(found.layers)),
            ("width", f"{found.hidden}, intermediate {found.intermediate}"),
            ("heads", f"{found.heads} query, {found.kv_heads} KV, of {found.head_dim}"),
            ("experts", experts),
            ("vocabulary", f"{found.vocab:,}"),
            ("longest context", f"{found.context_max:,} tokens" if found.context_max is not None else shown.UNKNOWN),
            ("weights", _weights(found)),
            ("license", found.license or shown.UNKNOWN),
            ("source", found.source or shown.UNKNOWN),
        ]
    )
    page.bullets(found.notes)


def _confidence(word: str) -> str:
    return word if word == "exact" else f"{word} confidence"


def _weights(found: ModelFacts) -> str | Cell:
    if found.weights_format == "none":
        return "not here: enough for planning"
    return Cell(found.weights_format, "", shown.size(found.weights_bytes))


_FIELDS: Final = {"parallel": "slots", "min_decode_tps": "speed"}


def goals(page: Page, found: tuple[Goal, ...], *, verbose: bool = False) -> None:
    """A table of goals, with what each is ranked by; with ``verbose`` also on whose word, and why each is as it is."""
    page.table(
        [Column("goal"), Column("for"), Column("context", True), Column("slots", True), Column("ranked by")],
        [
            [
                Cell(goal.id, STRONG),
                Cell(goal.description, "", "; ".join(cite(s) for s in goal.sources) if verbose else ""),
                f"{goal.context:,}",
                str(goal.parallel),
                ", ".join(f"{name} {weight:.0%}" for name, weight in goal.weights.items() if weight),
            ]
            for goal in found
        ],
    )
    for goal in found if verbose else ():
        page.title(goal.id)
        page.text(goal.because)
        page.fields([(_FIELDS.get(name, name), text) for name, text in goal.reasons.items()])
