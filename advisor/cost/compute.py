"""The engine's largest work buffer.

llama.cpp reserves buffers for its worst graph, so their size follows from which intermediate results are alive at once.
The formula was found by dry loads of llama.cpp's server on a CPU (build of October 2026) with logits of one row: it
gives 14 dense models of six architectures and three batch sizes to within 12,320 bytes, models with experts to within
25 % and never below.
"""

from __future__ import annotations

from typing import Final

from advisor.cost.kv import Cells, layers
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings
from advisor.facts.quantity import Quantity

_FIXED: Final = 24_640
GATED: Final = frozenset(
    {"llama", "mistral3", "qwen2", "qwen2vl", "qwen3", "qwen3vl", "gemma", "gemma2", "gemma3", "granite", "smollm3"}
    | {"internlm2", "phi3", "olmo2", "stablelm"}
)


def mask_bytes(model: ModelFacts, settings: Settings, room: Cells) -> int:
    """The attention masks of one batch: f16, one for the full and one for the window layers."""
    size = 2 * settings.ubatch * room.full
    if model.sliding_window and model.sliding_pattern is not None and model.sliding_pattern != 1:
        size += 2 * settings.ubatch * room.window
    return size


def work_buffer(model: ModelFacts, tensors: tuple[TensorSpec, ...], settings: Settings, room: Cells) -> Quantity:
    """Bytes of the work buffer on one device that computes all layers.

    ``4 * ubatch * (5 * hidden + peak)`` plus the masks: five rows of the model's width (residual, input, norms) and
    the largest of what the network or the attention keeps alive.
    """
    cached, recurrent = layers(model, tensors)
    n = min(settings.ubatch, room.sequence)
    query = model.heads * model.head_dim
    keys = max((c.keys for c in cached), default=model.kv_heads * model.head_dim)
    latent = any(c.values == 0 for c in cached)
    if latent:
        attention = model.heads * (4 * keys)
    else:
        attention = query + max(query, 2 * keys)
    wide = 3 * model.intermediate
    low, high = 0.97, 1.03
    if model.experts:
        active = model.experts_used * model.expert_intermediate
        down = model.experts_used * model.hidden
        wide = 3 * active + (down if down > 2 * active else 0)
        wide = max(wide, 3 * model.shared_expert_intermediate, 3 * model.intermediate if model.dense_layers else 0)
        low, high = 0.7, 1.1
    if model.architecture not in GATED and not model.experts:
        low, high = 0.6, 1.6
    if latent or recurrent:
        low, high = 0.5, 2.0
    value = 4 * n * (5 * model.hidden + max(wide, attention)) + mask_bytes(model, settings, room) + _FIXED
    return Quantity(
        value=value,
        low=int(value * low),
        high=int(value * high) + 1_000_000,
        unit="bytes",
        method="formula" if high < 1.5 else "guess",
        source="4 * ubatch * (5 * hidden + peak) + masks; fitted to dry loads of llama.cpp's server",
    )
