"""A bare size, ``8B``, ``8x7B`` or ``30.5B:3.3B``: the facts of a typical model of that size.

The geometry is interpolated between well-known models; the width of the feed-forward network follows from the size.
"""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.text import clean
from advisor.model.names import human
from advisor.model.tensors import computed, count

MIN_PARAMS: Final = 10e6
MAX_PARAMS: Final = 10e12
_UNITS: Final = {"m": 1e6, "b": 1e9, "t": 1e12}
_N: Final = r"(\d{1,6}(?:\.\d{1,6})?)([MBT])"
_DENSE: Final = re.compile(_N, re.IGNORECASE)
_TIMES: Final = re.compile(r"(\d{1,4})[xX×]" + _N, re.IGNORECASE)
_ACTIVE: Final = re.compile(_N + ":" + _N, re.IGNORECASE)
# Looks meant as a size: starts with a digit and has nothing but what sizes are written with, and a few letters.
_MEANT: Final = re.compile(r"[-+]?\d[\d.,xX×:\s]*[A-Za-z]{0,3}(?::[\d.,]*[A-Za-z]{0,3})?")


class Anchor(NamedTuple):
    """A well-known model's geometry."""

    params: float
    layers: int
    hidden: int
    head_dim: int
    kv_heads: int
    vocab: int
    tied: bool


# stories15M, SmolLM2-135M, Qwen2.5-0.5B, Llama-3.2-1B and -3B, Llama-3.1-8B, Qwen3-14B, Qwen3-32B, Llama-3.3-70B,
# Mistral-Large-2407, Llama-3.1-405B, and a stretch of the last for what lies above.
ANCHORS: Final = (
    Anchor(15.2e6, 6, 288, 48, 6, 32_000, True),
    Anchor(134.5e6, 30, 576, 64, 3, 49_152, True),
    Anchor(494e6, 24, 896, 64, 2, 151_936, True),
    Anchor(1.236e9, 16, 2048, 64, 8, 128_256, True),
    Anchor(3.213e9, 28, 3072, 128, 8, 128_256, True),
    Anchor(8.03e9, 32, 4096, 128, 8, 128_256, False),
    Anchor(14.77e9, 40, 5120, 128, 8, 151_936, False),
    Anchor(32.76e9, 64, 5120, 128, 8, 151_936, False),
    Anchor(70.55e9, 80, 8192, 128, 8, 128_256, False),
    Anchor(122.6e9, 88, 12_288, 128, 8, 32_768, False),
    Anchor(405.9e9, 126, 16_384, 128, 8, 128_256, False),
    Anchor(12e12, 160, 49_152, 128, 8, 128_256, False),
)


def is_size(ref: str) -> bool:
    """Whether ``ref`` is written like a size."""
    return any(p.fullmatch(ref) for p in (_DENSE, _TIMES, _ACTIVE))


def looks_meant(ref: str) -> bool:
    """Whether ``ref`` is a near miss of a size, like ``8Bn`` or ``8``."""
    return len(ref) <= 24 and _MEANT.fullmatch(ref) is not None


def bad_size(ref: str, why: str = "it is not written like a size") -> AdvisorError:
    """The error for a size that cannot be planned for."""
    return AdvisorError(
        "bad-model-size",
        f'"{clean(ref, 60)}" is no model size: {why}. Sizes are written like 8B, 8x7B or 30.5B:3.3B (total:active).',
        hint="advisor recommend 8B",
    )


def _number(ref: str, digits: str, unit: str) -> float:
    value = float(digits) * _UNITS[unit.lower()]
    if not MIN_PARAMS <= value <= MAX_PARAMS:
        raise bad_size(ref, f"{digits}{unit} is not between {human(MIN_PARAMS)} and {human(MAX_PARAMS)}")
    return value


def _geometry(size: float) -> Anchor:
    """Layers and width between the two nearest anchors, on a logarithmic scale; the rest as the nearer one has it."""
    low = max((a for a in ANCHORS if a.params <= size), key=lambda a: a.params, default=ANCHORS[0])
    high = min((a for a in ANCHORS if a.params >= size), key=lambda a: a.params, default=ANCHORS[-1])
    span = math.log(high.params / low.params)
    share = math.log(size / low.params) / span if span else 0.0
    near = high if share > 0.5 else low
    step = near.head_dim * near.kv_heads
    hidden = max(step, round(low.hidden * (high.hidden / low.hidden) ** share / step) * step)
    layers = max(2, round(low.layers * (high.layers / low.layers) ** share))
    return near._replace(params=size, layers=layers, hidden=hidden)


def _fixed(g: Anchor) -> int:
    """Weights outside the feed-forward networks."""
    attention = 2 * g.hidden * g.hidden + 2 * g.hidden * g.kv_heads * g.head_dim
    return g.layers * (attention + 2 * g.hidden) + g.hidden + g.vocab * g.hidden * (1 if g.tied else 2)


def _multiple(value: float, step: int) -> int:
    return max(step, round(value / step) * step)


def _dense_width(size: float, g: Anchor) -> tuple[Anchor, int]:
    """Layers and a feed-forward width of two to five times the model's width that make the size."""
    for _ in range(4096):
        width = (size - _fixed(g)) / (3 * g.hidden * g.layers)
        if width < 2 * g.hidden and g.layers > 2:
            g = g._replace(layers=g.layers - 1)
        elif width > 5 * g.hidden:
            g = g._replace(layers=g.layers + 1)
        else:
            break
    return g, _multiple(width, 256 if g.hidden >= 2048 else 64)


def _routed(total: float, active: float) -> tuple[Anchor, int, int, int]:
    """Geometry, number of experts, experts used and expert width for a total and an active size."""
    backbone = math.sqrt(total * active)
    g = _geometry(backbone)
    while _fixed(g) > 0.5 * active and backbone > MIN_PARAMS:
        backbone *= 0.9
        g = _geometry(backbone)
    routed = total - _fixed(g)
    best: tuple[float, int, int] | None = None
    for experts in (8, 16, 32, 64, 128, 256, 512):
        used = max(1, round((active - _fixed(g)) / routed * experts))
        error = abs(_fixed(g) + routed * used / experts - active) / active
        # Fewer experts are as good as more where they meet the active size within five per cent.
        if best is None or (error < best[0] and best[0] > 0.05):
            best = (error, experts, used)
    assert best is not None
    _, experts, used = best
    return g, experts, min(used, experts), _multiple(routed / (3 * g.hidden * g.layers * experts), 64)


def facts(ref: str) -> ModelFacts:
    """Facts of a typical model of the size ``ref``.

    Raises:
        AdvisorError: ``bad-model-size``.
    """
    experts = used = expert_width = 0
    active = 0.0
    if found := _DENSE.fullmatch(ref):
        size = _number(ref, found[1], found[2])
        g, width = _dense_width(size, _geometry(size))
        what = human(size)
    elif found := _TIMES.fullmatch(ref):
        experts, size = int(found[1]), _number(ref, found[2], found[3])
        if not 2 <= experts <= 512:
            raise bad_size(ref, f"{experts} experts are not between 2 and 512")
        # Models named this way (Mixtral) have a small vocabulary and replace the dense network by whole experts.
        g, width = _dense_width(size, _geometry(size)._replace(vocab=32_000))
        used, expert_width, what = 2, width, f"{experts}x{human(size)}"
    elif found := _ACTIVE.fullmatch(ref):
        total, active = _number(ref, found[1], found[2]), _number(ref, found[3], found[4])
        if active >= total:
            raise bad_size(ref, "the active part is not smaller than the whole")
        g, experts, used, expert_width = _routed(total, active)
        width, what = expert_width, f"{human(total)} with {human(active)} active"
        size = total
    else:
        raise bad_size(ref)
    built = ModelFacts(
        name=ref,
        ref=ref,
        kind="size",
        architecture="llama",
        model_type="llama",
        layers=g.layers,
        hidden=g.hidden,
        heads=g.hidden // g.head_dim,
        kv_heads=g.kv_heads,
        head_dim=g.head_dim,
        intermediate=width,
        vocab=g.vocab,
        context_max=131_072,
        tie_embeddings=g.tied,
        experts=experts,
        experts_used=used,
        expert_intermediate=expert_width,
        params=0,
        active_params=0,
        weights_dtype="bf16",
        confidence="low",
        source="interpolated between well-known models",
        notes=(f"low confidence: a typical model of {what}, not a particular one",),
    )
    params, active_params = count(computed(built), experts, used)
    if ":" in ref and not (0.9 < params / size < 1.1 and 0.8 < active_params / active < 1.25):
        raise bad_size(ref, "no usual architecture has so small or so large an active part")
    return msgspec.structs.replace(built, params=params, active_params=active_params)
