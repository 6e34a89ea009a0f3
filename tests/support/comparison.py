"""A sample of ``advisor compare``: a row that was measured, one that was predicted, one that is not to be had."""

from __future__ import annotations

from advisor.facts.comparison import Comparison, Figures, Row
from tests.support.samples import GIB, sample_model, sample_quantity


def sample_comparison() -> Comparison:
    """Three rows."""
    predicted = Figures(memory=sample_quantity(), decode=sample_quantity(90.0, "tokens/s", "fit"))
    measured = Figures(
        memory=sample_quantity(5 * GIB, "bytes", "measured"), kld=sample_quantity(0.07, "nats", "measured")
    )
    return Comparison(
        rows=(
            Row(
                method="gguf",
                format="q4_k_m",
                runtime="llama.cpp",
                plan_id="p-00000001",
                predicted=predicted,
                measured=measured,
                verdict="pass",
                measured_at="2026-11-21T10:00:00.000Z",
            ),
            Row(
                method="awq",
                format="w4a16-g64",
                runtime="vllm",
                plan_id="p-00000002",
                predicted=predicted,
                measured=None,
                because="not measured: needs a driver",
            ),
            Row(
                method="fp8",
                format="fp8",
                runtime="vllm",
                plan_id=None,
                predicted=None,
                measured=None,
                because="No kernel. (RT-009)",
            ),
        ),
        model=sample_model(),
    )
