"""Numbers for one named choice, each with its range and origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import BAD, FAINT, FAIR, GOOD, STRONG, Cell, Column
from .plans import room

if TYPE_CHECKING:
    from advisor.facts.plan import EngineFit, Estimate
    from advisor.facts.quantity import Quantity

    from ..page import Page

_PARTS = {
    "weights": "weights",
    "kv_cache": "KV cache",
    "state": "recurrent state",
    "compute": "work buffer",
    "output": "output buffer",
    "repack": "repacked weights",
    "overhead": "process and driver",
}


def estimate(page: Page, found: Estimate, *, verbose: bool = False) -> None:
    """Write an estimate."""
    model, s = found.model, found.settings
    where = f" on {found.machine}" if found.machine else ""
    page.title(f"{model.name}: {found.method} {found.format} in {found.runtime}{where}")
    page.text(
        f"{shown.count(model.params)} parameters, {model.architecture}, {shown.counted(model.layers, 'layer')}; "
        + room(s.context // s.parallel, s.parallel, s.kv_type),
        FAINT,
    )
    page.text(_settings(found), FAINT)
    page.text(*_fits(found))
    if found.engine_fit is not None:
        page.text(_own_fit(found.engine_fit), FAINT)
    page.blank()
    rows: list[tuple[str, Quantity | None, str]] = [
        (title, part, "") for name, title in _PARTS.items() if (part := getattr(found.memory, name)).value or verbose
    ]
    rows.append(("memory in all", found.memory.total, STRONG))
    rows += [(f"- on {device}", part, "") for device, part in found.memory.by_device.items()]
    if found.memory.reserved is not None:
        rows.append(("reserved on top", found.memory.reserved, ""))
    rows += [("decode", found.speed.decode, STRONG), ("prefill", found.speed.prefill, "")]
    quality = found.quality
    rows += [("KLD", quality.kld, ""), ("perplexity ratio", quality.perplexity_ratio, "")]
    page.table(
        [Column("what"), Column("value", True), Column("range", True), Column("origin")]
        + ([Column("source")] if verbose else []),
        [_row(title, q, style, verbose=verbose) for title, q, style in rows],
    )
    unknown = [title for title, q, _ in rows if q is None]
    if unknown:
        page.blank()
        page.text(f"Not known: {shown.listed(unknown)}. {_whence(found)}", FAIR)
    if found.assumptions:
        page.blank()
        page.bullets(f"Assumed: {text}." for text in found.assumptions)
    if found.fallbacks:
        page.blank()
        page.text(
            "Stored in another type than named: "
            + ", ".join(f"{shown.counted(n, 'tensor')} {k}" for k, n in found.fallbacks.items())
        )


def _settings(found: Estimate) -> str:
    """What the runtime would be started with, as far as it moves the numbers."""
    s, parts = found.settings, []
    if s.gpu_layers:
        parts.append(f"{shown.counted(s.gpu_layers, 'layer')} on devices")
    if s.cpu_moe_layers:
        parts.append(f"experts of {shown.counted(s.cpu_moe_layers, 'layer')} on the CPU")
    if s.tensor_parallel > 1:
        parts.append(f"tensor parallel {s.tensor_parallel}")
    if s.threads is not None and (not s.gpu_layers or "host" in found.memory.by_device):
        parts.append(shown.counted(s.threads, "thread"))
    return ", ".join([*parts, f"batches of {s.batch} and {s.ubatch} tokens"])


def _fits(found: Estimate) -> tuple[str, str]:
    if found.fits is None:
        return "Whether it fits is unknown.", FAIR
    if found.fits:
        return "It fits.", GOOD
    short = f": short by {shown.size(found.short_by)}" if found.short_by is not None else ""
    return f"It does not fit{short}.", BAD


def _whence(found: Estimate) -> str:
    """What would make the unknown known."""
    if found.speed.decode is None:
        return "A bandwidth makes the speed known: `advisor probe --measure` here, or --bandwidth for another machine."
    return "No source that advisor has gives a figure for this combination."


def _row(title: str, q: Quantity | None, style: str, *, verbose: bool) -> list[str | Cell]:
    row: list[str | Cell] = [
        Cell(title, style),
        Cell(shown.quantity(q), style if q else FAINT),
        Cell(shown.quantity_range(q), FAINT),
        shown.origin(q),
    ]
    return [*row, Cell(q.source if q else "", FAINT)] if verbose else row


def _own_fit(fit: EngineFit) -> str:
    """What llama.cpp chooses by itself, to stand beside the numbers."""
    if fit.engine is None:
        return "llama.cpp's own fit: none of the providers that are installed here has one."
    if not fit.fits or fit.context is None or fit.gpu_layers is None:
        return f"llama.cpp's own fit ({fit.engine}): it finds none, with 1 GiB left free."
    layers = "all layers" if fit.gpu_layers < 0 else shown.counted(fit.gpu_layers, "layer")
    return (
        f"llama.cpp's own fit ({fit.engine}): {shown.counted(fit.context, 'token')} of context, {layers} on devices, "
        "where there are any; it counts all memory of the host, without weights that are repacked."
    )
