"""The guide's benchmark table for one model on one machine: a row for each method, predicted and measured."""

from __future__ import annotations

from advisor.facts.base import Shape
from advisor.facts.model import ModelFacts
from advisor.facts.quantity import Quantity
from advisor.facts.words import MethodName, RuntimeName, Verdict


class Figures(Shape, frozen=True, kw_only=True):
    """One side of a row: bytes while serving, tokens/s, nats, perplexity as a ratio to the original's, seconds of
    quantizing, bytes of the weight files; ``perplexity_absolute`` is what was measured on the text, never predicted.
    ``None``: not known, or not measured."""

    memory: Quantity | None = None
    decode: Quantity | None = None
    kld: Quantity | None = None
    perplexity: Quantity | None = None
    perplexity_absolute: Quantity | None = None
    quantize_seconds: Quantity | None = None
    file_bytes: Quantity | None = None


class Row(Shape, frozen=True, kw_only=True):
    """One way to run the model. ``plan_id`` is ``None`` where there is no plan; ``because`` says why, or what failed.

    ``measured_at`` in UTC, ``reused`` where an earlier run measured it; ``verdict`` of the quality gate.
    """

    method: MethodName
    format: str
    runtime: RuntimeName
    plan_id: str | None
    predicted: Figures | None
    measured: Figures | None
    verdict: Verdict | None = None
    because: str | None = None
    measured_at: str | None = None
    reused: bool = False


class Comparison(Shape, frozen=True, kw_only=True):
    """All rows, as ``advisor compare`` shows them."""

    rows: tuple[Row, ...]
    model: ModelFacts
    text: str | None = None
