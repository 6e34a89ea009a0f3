"""Host memory in which a llama.cpp server keeps what it has computed: prompts of before, and checkpoints of states.

advisor starts its servers without either (``--cache-ram 0``, ``--ctx-checkpoints 0``), because both grow with use. A
runtime that starts llama.cpp's server by itself leaves its defaults on: 8192 MiB of prompts, 32 checkpoints a slot
(``cache_ram_mib`` and ``n_ctx_checkpoints`` in llama.cpp's ``common.h``; Ollama of August 2026 passes neither).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from advisor.cost.kv import cache_by_layer, layers, state_by_layer
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings
from advisor.facts.quantity import Quantity


class Kept(NamedTuple):
    """What a server may keep. ``prompts``: bytes of whole prompts at most; ``checkpoints``: states at most, a slot."""

    prompts: int
    checkpoints: int


NOTHING: Final = Kept(0, 0)
DEFAULTS: Final = Kept(8192 << 20, 32)
# Runtimes that start llama.cpp's server with its own defaults.
OF_RUNTIME: Final = {"ollama": DEFAULTS, "textgen": DEFAULTS}


def checkpoint_bytes(model: ModelFacts, tensors: tuple[TensorSpec, ...], settings: Settings) -> int:
    """Bytes of one checkpoint of one slot: recurrent state, and the cache of window layers.

    Those are the parts of a sequence that cannot be cut back; a model that has neither gets no checkpoints. The server
    saves them with ``LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY``.
    """
    slots = max(settings.parallel, 1)
    windows = {one.layer for one in layers(model, tensors)[0] if one.window}
    cached = cache_by_layer(model, tensors, settings) if windows else {}
    state = sum(state_by_layer(model, tensors, settings).values())
    return (sum(size for layer, size in cached.items() if layer in windows) + state) // slots


def kept_bytes(model: ModelFacts, tensors: tuple[TensorSpec, ...], settings: Settings, kept: Kept) -> Quantity:
    """Bytes kept on the host: one checkpoint a slot is there after the first prompt; the rest comes with use."""
    one = checkpoint_bytes(model, tensors, settings) * max(settings.parallel, 1) if kept.checkpoints else 0
    high = one * kept.checkpoints + kept.prompts
    return Quantity(
        value=one,
        low=0,
        high=high,
        unit="bytes",
        method="formula" if high else "exact",
        source="one checkpoint a slot, up to what its server's defaults allow of prompts and checkpoints"
        if high
        else "the server keeps neither prompts nor checkpoints",
    )
