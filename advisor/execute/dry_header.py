"""Metadata from which llama.cpp builds a model's graph: what a GGUF header without weights and tokenizer must say."""

from __future__ import annotations

from typing import Any, Final

from advisor.cost.kv import Block, blocks, layers
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.model.tensors import computed

# Architectures whose key-value heads are listed by layer, 0 where a layer has no attention.
_LISTED: Final = frozenset(
    {"granitehybrid", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "jamba", "kimi-linear", "gemma4"}
)
_WINDOWED: Final = frozenset(
    {"gemma2", "gemma3", "gemma3n", "gemma4", "gpt-oss", "olmo2", "cohere2", "llama4", "exaone4", "exaone-moe", "lfm2"}
)
_BY_LAYER: Final = frozenset({"gemma3n", "gemma4", "exaone-moe"})
_RECURRENT: Final = frozenset({"qwen3next", "qwen35", "qwen35moe"})
_SECTIONS: Final = frozenset({"qwen35", "qwen35moe", "qwen2vl", "qwen3vl", "qwen3vlmoe"})
_XIELU: Final = ("alpha_n", "alpha_p", "beta", "eps")
_EPS: Final = 1e-5


def header(
    model: ModelFacts, tensors: tuple[TensorSpec, ...] | None = None, *, rotary: int | None = None
) -> dict[str, Any]:
    """Metadata for ``model`` with ``tensors`` (by default those of its architecture); without a tokenizer.

    ``rotary``: rotated part of a head, where it is not the whole. Scales do not change sizes; the engine wants them for
    some architectures.
    """
    tensors = computed(model) if tensors is None else tensors
    found = blocks(model, tensors)
    ahead = model.widths.get("nextn_predict_layers", 0)
    factors = next((t for t in tensors if t.name.startswith(("rope_factors", "rope_freqs"))), None)
    keys: dict[str, Any] = {
        "context_length": model.context_max or 4096,
        "embedding_length": model.hidden,
        "block_count": model.layers + ahead,
        "feed_forward_length": _networks(model, found, ahead),
        "attention.head_count": model.heads,
        "attention.head_count_kv": _heads(model, found, ahead),
        "attention.layer_norm_rms_epsilon": _EPS,
        "attention.layer_norm_epsilon": _EPS,
        "logit_scale": 1.0,
        "vocab_size": model.vocab,
    }
    if model.head_dim:
        keys |= {"attention.key_length": model.head_dim, "attention.value_length": model.head_dim}
        keys["rope.dimension_count"] = rotary or (2 * factors.width if factors else model.head_dim)
    keys |= _experts(model, found)
    keys |= _windows(model)
    if model.architecture in _RECURRENT:
        recurrent = {one.layer for one in layers(model, tensors)[1]}
        keys["attention.recurrent_layers"] = [i in recurrent for i in range(model.layers + ahead)]
    if model.architecture in _SECTIONS:
        keys["rope.dimension_sections"] = [11, 11, 10, 0]
    if model.architecture == "gptneox":
        keys["use_parallel_residual"] = True
    keys |= model.widths
    if (dim := model.widths.get("attention.key_length_swa")) is not None:
        keys["attention.value_length_swa"] = keys["rope.dimension_count_swa"] = dim
    if "attention.indexer.head_count" in model.widths:
        keys["attention.indexer.top_k"] = 2048
    named = {
        "general.architecture": model.architecture,
        "tokenizer.ggml.model": "no_vocab",
        **{f"{model.architecture}.{k}": v for k, v in keys.items()},
    }
    if model.architecture == "apertus":  # learned parameters of its activation, under names without an architecture
        named |= {f"xielu.{name}": [0.5] * model.layers for name in _XIELU}
    return named


def _heads(model: ModelFacts, found: dict[int, Block], ahead: int) -> int | list[int]:
    if model.architecture not in _LISTED:
        return model.kv_heads
    windows = _pattern(model)
    narrow = model.widths.get("attention.key_length_swa", model.head_dim)
    counts = []
    for i, block in sorted(found.items()):
        kind = model.layer_kinds[i] if len(model.layer_kinds) > i else ""
        keys = block.get("attn_k.weight") if kind != "recurrent" else None
        dim = narrow if windows and windows[i] else model.head_dim
        counts.append(keys.shape[0] // dim if keys is not None and dim else int(kind == "latent"))
    return counts + [model.kv_heads] * ahead


def _networks(model: ModelFacts, found: dict[int, Block], ahead: int) -> int | list[int]:
    """Width of the dense networks; a list where some layers have none."""
    widths = []
    for _, block in sorted(found.items()):
        down = block.get("ffn_down.weight") or block.get("ffn_down_exps.weight")
        widths.append(down.width if down is not None else 0)
    if model.architecture.startswith("nemotron_h"):
        return widths + [model.expert_intermediate] * ahead
    dense = [block["ffn_down.weight"].width for block in found.values() if "ffn_down.weight" in block]
    if len(set(dense)) > 1 and len(dense) == model.layers:
        return [block["ffn_down.weight"].width for _, block in sorted(found.items())]
    if model.architecture in ("granitehybrid", "jamba") and model.experts:
        return model.expert_intermediate
    return model.intermediate


def _experts(model: ModelFacts, found: dict[int, Block]) -> dict[str, Any]:
    if not model.experts:
        return {}
    corrected = any("exp_probs_b.bias" in block for block in found.values())
    keys: dict[str, Any] = {
        "expert_count": model.experts,
        "expert_used_count": model.experts_used,
        "expert_feed_forward_length": model.expert_intermediate,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
        "expert_gating_func": 2 if corrected else 1,
    }
    if shared := model.shared_expert_intermediate:
        keys["expert_shared_feed_forward_length"] = shared
        keys["expert_shared_count"] = max(shared // model.expert_intermediate, 1) if model.expert_intermediate else 1
    if model.dense_layers:
        keys["leading_dense_block_count"] = model.dense_layers
    return keys


def _shared(model: ModelFacts) -> int:
    """Layers at the end that read another layer's cache."""
    kinds = model.layer_kinds
    return len(kinds) - kinds.index("none") if "none" in kinds and model.architecture in _BY_LAYER else 0


def _pattern(model: ModelFacts) -> list[bool]:
    """Which layers see a window, where the file lists them; the sharing ones go on as those before."""
    if not model.layer_kinds or model.architecture not in _BY_LAYER:
        return []
    own = model.layer_kinds[: len(model.layer_kinds) - _shared(model)]
    period = own.index("full") + 1 if "full" in own else len(own) + 1
    return [own[i] == "window" if i < len(own) else (i + 1) % period != 0 for i in range(model.layers)]


def _windows(model: ModelFacts) -> dict[str, Any]:
    if not model.sliding_window or model.architecture not in _WINDOWED:
        return {}
    keys: dict[str, Any] = {"attention.sliding_window": model.sliding_window}
    if pattern := _pattern(model):
        keys["attention.sliding_window_pattern"] = pattern
        if shared := _shared(model):
            keys["attention.shared_kv_layers"] = shared
    return keys
