"""Sizes of checkpoints from configuration alone, held against sizes that were published.

``benchmarks/data/published_sizes.csv`` lists the files with their source, ``plus_minus`` being what the published
figure is rounded to. ``options``: ``imatrix``; ``tensors``: the figure counts no header; ``static``: FP8 with static
activations; ``square128``: one FP8 scale for each square of 128; ``single``: NF4 without double quantization;
``zeros8``: HQQ with zero points of 8 bits; ``twice``: the file repeats the tied output matrix, which no configuration
tells. Left out are files that other rules made: GGUF of builds before March 2024 and of their makers' own mixes,
checkpoints with 32-bit embeddings, sparse ones.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from advisor.cost.formats import checkpoint
from advisor.cost.gguf_file import weight_map
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.quantity import Quantity
from advisor.facts.recipe import Recipe
from advisor.model import bundled
from advisor.model.architectures import from_config
from advisor.model.tensors import computed

DATA = Path(__file__).with_name("data")
BAR = 0.01


class Size(NamedTuple):
    """A published size and what is predicted for it; ``low`` and ``high`` are the predicted range."""

    model: str
    method: str
    format: str
    options: tuple[str, ...]
    published: int
    plus_minus: int
    predicted: int
    low: float
    high: float
    source: str

    @property
    def ratio(self) -> float:
        """Predicted over published."""
        return self.predicted / self.published

    @property
    def error(self) -> float:
        """Share by which the prediction misses the published figure."""
        return abs(self.ratio - 1)

    @property
    def beyond_rounding(self) -> float:
        """The same, counted from the nearest size that rounds to the published figure."""
        return max(0, abs(self.predicted - self.published) - self.plus_minus) / self.published


@cache
def shapes_of(model: str) -> tuple[ModelFacts, tuple[TensorSpec, ...]]:
    """Facts and tensors of a model from its configuration: bundled, or of ``size_configs.json``.

    Raises:
        KeyError: neither knows it.
    """
    found = bundled.get(model)
    if found is None:
        own = json.loads((DATA / "size_configs.json").read_text(encoding="utf-8"))[model]
        found = from_config(own["config"], name=model, ref=model, kind="hub")
    return found, computed(found)


def _predict(row: dict[str, str], options: tuple[str, ...]) -> Quantity:
    model, tensors = shapes_of(row["model"])
    method, fmt, quantizer = row["method"], row["format"], row["quantizer"] or None
    if method == "gguf":
        laid = weight_map(model, tensors, fmt, imatrix="imatrix" in options, as_is=False)
        if "tensors" not in options:
            return laid.file
        return Quantity(value=laid.loaded, low=laid.loaded, high=laid.loaded, unit="bytes", method="formula", source="")
    recipe = None
    if {"static", "single", "zeros8"} & set(options):
        recipe = Recipe(
            method=method,  # type: ignore[arg-type]
            format=fmt,
            quantizer=quantizer or "",
            bits=4,
            static_activations="static" in options,
            double_quant=False if "single" in options else True if "zeros8" in options else None,
        )
    square = 128 if "square128" in options else 0
    return checkpoint(
        model, tensors, method, fmt, quantizer, recipe, square=square, output_twice="twice" in options
    ).total


def published() -> list[Size]:
    """All rows of the table of published sizes with their predictions."""
    out = []
    with (DATA / "published_sizes.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            options = tuple(row["options"].split())
            told = _predict(row, options)
            out.append(
                Size(
                    model=row["model"],
                    method=row["method"],
                    format=row["format"],
                    options=options,
                    published=int(row["bytes"]),
                    plus_minus=int(row["plus_minus"]),
                    predicted=int(told.value),
                    low=float(told.low if told.low is not None else told.value),
                    high=float(told.high if told.high is not None else told.value),
                    source=row["source"],
                )
            )
    return out


def summary(found: Iterable[Size]) -> dict[str, float]:
    """Count, median and worst error, and the share of rows within one per cent."""
    errors = sorted(s.error for s in found)
    return {
        "count": len(errors),
        "median": statistics.median(errors),
        "worst": errors[-1],
        "within": sum(e <= BAR for e in errors) / len(errors),
    }


def sizes(say: Callable[[str], None]) -> None:
    """Print every published size with its prediction, and how far the predictions are off, by method."""
    found = published()
    say("## Sizes of weights from configuration alone\n")
    say(
        "`python benchmarks/run.py sizes`; GB are 10^9 bytes; ± is half of the published figure's last digit. Bar: "
        "within 1 % on every row. *twice*: the published file repeats the tied output matrix, which its configuration "
        f"does not tell ({sum('twice' in s.options for s in found)} rows).\n"
    )
    say("| method | rows | median error | worst | worst beyond rounding | within 1 % |\n|---|---|---|---|---|---|")
    groups = {m: [s for s in found if s.method == m] for m in dict.fromkeys(s.method for s in found)}
    for name, rows in [*groups.items(), ("all", found)]:
        told = summary(rows)
        beyond = max(s.beyond_rounding for s in rows)
        say(
            f"| {name} | {told['count']:.0f} | {told['median']:.2%} | {told['worst']:.2%} | {beyond:.2%} "
            f"| {told['within']:.0%} |"
        )
    say("\n| model | format | published GB | predicted GB | ratio | source |\n|---|---|---|---|---|---|")
    for s in found:
        extra = "".join(f" {o}" for o in s.options)
        say(
            f"| {s.model} | {s.method} {s.format}{extra} | {s.published / 1e9:.3f} ± {s.plus_minus / 1e9:.3f} "
            f"| {s.predicted / 1e9:.3f} | {s.ratio:.4f} | {s.source} |"
        )
    say("")


if __name__ == "__main__":
    sizes(print)
