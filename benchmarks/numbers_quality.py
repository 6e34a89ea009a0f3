"""How well the losses by quantization are predicted for models that were left out of the fit."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

from advisor.cost.quality import PERPLEXITY_SPREAD, RECOVERY_SPREAD, Z  # noqa: E402
from benchmarks.fit_quality import FLOORS, FOLDER, Fit, Row, load, rows  # noqa: E402

# What the stated ranges of the measures other than the divergence have on top.
SPREADS = {"perplexity_ratio": PERPLEXITY_SPREAD, "recovery": RECOVERY_SPREAD}
NAMES = {
    "kld": "mean KL divergence",
    "median_kld": "median KL divergence",
    "perplexity_ratio": "log of the perplexity ratio",
    "recovery": "share of a task score lost",
}


class Left(NamedTuple):
    """A row whose model the fit did not see: the factor and the difference by which it was missed, and whether the
    stated range held it."""

    row: Row
    factor: float
    difference: float
    inside: bool


def left_out(given: Sequence[Row]) -> list[Left]:
    """Every row predicted by a fit without its model and its near copies."""
    out = []
    for family in sorted({r.family for r in given}):
        fit = Fit([r for r in given if r.family != family])
        for row in given:
            if row.family != family:
                continue
            told, floor = fit.tell(row), FLOORS[row.measure]
            width = Z * told.deviation + math.log(SPREADS.get(row.measure, 1.0))
            low, high = math.exp(told.mean - width), math.exp(told.mean + width)
            # What is smaller than the noise of the figure itself can be missed by no factor.
            least = math.log(floor / 2)
            off = abs(math.log(max(row.value, floor / 2)) - max(told.mean, least))
            held = low - floor <= row.value <= high + floor
            out.append(Left(row, math.exp(off), math.exp(told.mean) - row.value, held))
    return out


def summary(found: Iterable[Left]) -> dict[str, float]:
    """Rows, models, median factor, and the share inside the range; each also with every model weighing the same."""
    listed = list(found)
    models = {x.row.family: [y for y in listed if y.row.family == x.row.family] for x in listed}
    return {
        "rows": len(listed),
        "models": len(models),
        "factor": statistics.median(x.factor for x in listed),
        "inside": sum(x.inside for x in listed) / len(listed),
        "factor by model": statistics.median(statistics.median(x.factor for x in own) for own in models.values()),
        "inside by model": statistics.fmean(sum(x.inside for x in own) / len(own) for own in models.values()),
    }


def quality(say: Callable[[str], None], path: Path = FOLDER / "evidence.json") -> None:
    """Print the score, leaving out one model at a time: by measure and by method."""
    found = left_out(rows(load(path)))
    say("## Quality\n")
    say(
        "`python benchmarks/run.py quality`; losses of models that the fit (`benchmarks/fit_quality.py`) did not see, "
        "with their near copies left out too; the stated range is meant to hold 80 % of models (bar: at least that). "
        "Factor: how many times too much or too little, median. Figures below their own noise count as that noise.\n"
    )
    say("| measure | method | rows | models | factor | inside | factor, models alike | inside, models alike |")
    say("|---|---|---|---|---|---|---|---|")
    for measure, name in NAMES.items():
        own = [x for x in found if x.row.measure == measure]
        methods = sorted({x.row.method for x in own})
        for method in [*methods, "all"] if len(methods) > 1 else methods:
            told = summary(x for x in own if method in ("all", x.row.method))
            say(
                f"| {name} | {method} | {told['rows']:.0f} | {told['models']:.0f} | {told['factor']:.2f} "
                f"| {told['inside']:.0%} | {told['factor by model']:.2f} | {told['inside by model']:.0%} |"
            )
    scores = [x for x in found if x.row.measure == "recovery"]
    off = statistics.median(abs(x.difference) for x in scores)
    large = [x.factor for x in scores if x.row.value > 2 * FLOORS["recovery"]]
    say(
        f"\nScores: {off:.2%} of the score off in the median, where more than {2 * FLOORS['recovery']:.0%} is lost by "
        f"a factor of {statistics.median(large):.2f} ({len(large)} rows).\n"
    )


if __name__ == "__main__":
    quality(print)
