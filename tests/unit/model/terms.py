"""The terms in which the tests write configurations down, and what was published of a model."""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Published(NamedTuple):
    """``total`` and ``active`` weights as published; ``every``: with vision tower and layers that predict ahead."""

    config: dict[str, Any]
    total: float
    source: str
    active: float | None = None
    every: int | None = None


def terms(
    model_type: str,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    vocab: int,
    **more: Any,
) -> dict[str, Any]:
    """The terms that nearly all configurations share."""
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
        **more,
    }


def mla(model_type: str, layers: int, hidden: int, heads: int, inner: int, vocab: int, **more: Any) -> dict[str, Any]:
    ranks = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    return terms(model_type, layers, hidden, heads, heads, inner, vocab, **ranks, **more)


def experts(count: int, used: int, width: int, **more: Any) -> dict[str, Any]:
    return {"n_routed_experts": count, "num_experts_per_tok": used, "moe_intermediate_size": width, **more}


def types(layers: int, every: int) -> list[str]:
    """``layer_types`` where every n-th layer has the whole context."""
    return ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]


HUB: Final = "weights of the checkpoint as the hub counts them (safetensors)"
CHECKPOINT: Final = HUB + ", {}"
CARD: Final = "model card of {}"


def seen(model_type: str, text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": model_type, "text_config": text, "vision_config": vision}
