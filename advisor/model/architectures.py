"""From config.json, in the names of transformers, to architecture facts in the terms of llama.cpp.

Every value is checked: type, range, presence. An unknown architecture gets a generic estimate of low confidence that
says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.text import clean
from advisor.model import quantized
from advisor.model.tensors import computed, count

CODE: Final = "untrusted-model-config"


class Known(NamedTuple):
    """A ``model_type``: llama.cpp's architecture, and the defaults that its configuration class has."""

    arch: str
    tied: bool = False
    attention_bias: bool = False
    pattern: int | None = None  # every n-th layer has full attention, the others a window
    window: int | None = None
    head_dim: int | None = None


MODEL_TYPES: Final[dict[str, Known]] = {
    "llama": Known("llama"),
    "mistral": Known("llama"),
    "mixtral": Known("llama"),
    "ministral3": Known("mistral3"),
    "qwen2": Known("qwen2", attention_bias=True),
    "qwen2_moe": Known("qwen2moe", attention_bias=True),
    "qwen2_vl": Known("qwen2vl", attention_bias=True),
    "qwen2_vl_text": Known("qwen2vl", attention_bias=True),
    "qwen2_5_vl": Known("qwen2vl", attention_bias=True),
    "qwen2_5_vl_text": Known("qwen2vl", attention_bias=True),
    "qwen3": Known("qwen3", head_dim=128),
    "qwen3_moe": Known("qwen3moe", head_dim=128),
    "qwen3_vl_text": Known("qwen3vl", head_dim=128),
    "qwen3_vl_moe_text": Known("qwen3vlmoe", head_dim=128),
    "gemma": Known("gemma", tied=True, head_dim=256),
    "gemma2": Known("gemma2", tied=True, pattern=2, window=4096, head_dim=256),
    "gemma3_text": Known("gemma3", tied=True, pattern=6, window=4096, head_dim=256),
    "phi3": Known("phi3"),
    "granite": Known("granite"),
    "smollm3": Known("smollm3", tied=True),
    "internlm2": Known("internlm2"),
    "olmo2": Known("olmo2"),
    "olmo3": Known("olmo2", pattern=4, window=4096),
    "stablelm": Known("stablelm"),
    "gpt_oss": Known("gpt-oss", attention_bias=True, pattern=2, window=128, head_dim=64),
}
# Values that multimodal gemma-3 configurations leave out of text_config (transformers' Gemma3TextConfig).
_GEMMA3_DEFAULTS: Final[dict[str, int]] = {
    "vocab_size": 262_144,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
}
_DTYPES: Final = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "float": "f32", "half": "f16"}

MAX_LAYERS: Final = 2_048
MAX_WIDTH: Final = 1 << 20
MAX_HEADS: Final = 8_192
MAX_EXPERTS: Final = 65_536
MAX_VOCAB: Final = 1 << 24
MAX_CONTEXT: Final = 1 << 31


class Fields:
    """Checked access to a configuration object; error messages name the field and the value seen."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw = raw
        self.where = where

    def fail(self, name: str, why: str) -> AdvisorError:
        """The error to raise for a field."""
        return AdvisorError(CODE, f"{self.where}: {name} {why}.", data={"field": name})

    def whole(self, *names: str, low: int = 1, high: int) -> int | None:
        """The first present of ``names`` as a whole number in range; ``None`` where all are absent or null."""
        for name in names:
            value = self.raw.get(name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                kind = {str: "text", float: "a fraction", bool: "a truth value"}.get(type(value), type(value).__name__)
                raise self.fail(
                    name, f'is {kind} ("{clean(str(value), 40)}"), but must be a whole number from {low} to {high}'
                )
            if not low <= value <= high:
                raise self.fail(name, f"is {clean(str(value), 40)}, but must be from {low} to {high}")
            return value
        return None

    def need(self, *names: str, high: int) -> int:
        """As ``whole``, but absence is an error too."""
        value = self.whole(*names, high=high)
        if value is None:
            raise self.fail(names[0], f"is missing, but must be a whole number from 1 to {high}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A truth value."""
        value = self.raw.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(name, f'is "{clean(str(value), 40)}", but must be true or false')
        return value

    def text(self, name: str) -> str | None:
        """A string, made safe to show."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.fail(name, f'is "{clean(str(value), 40)}", but must be text')
        return clean(value, 80)


def text_part(config: Mapping[str, Any], where: str = "config.json") -> tuple[dict[str, Any], bool]:
    """The language model's part of a configuration, and whether there are other parts (vision, audio).

    Raises:
        AdvisorError: ``untrusted-model-config`` where ``text_config`` is not an object.
    """
    inner = config.get("text_config") or config.get("llm_config")
    if inner is None:
        return dict(config), "vision_config" in config
    if not isinstance(inner, Mapping):
        raise AdvisorError(CODE, f"{where}: text_config is not an object.", data={"field": "text_config"})
    merged = dict(inner)
    for key in ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config"):
        if key in config:
            merged.setdefault(key, config[key])
    merged.setdefault("model_type", f"{config.get('model_type', '')}_text")
    return merged, True


def _rope(f: Fields) -> Mapping[str, Any]:
    found = f.raw.get("rope_scaling") or f.raw.get("rope_parameters")
    return found if isinstance(found, Mapping) else {}


def _rope_factors(f: Fields, arch: str, head_dim: int) -> int:
    rope = _rope(f)
    kind = rope.get("rope_type") or rope.get("type")
    if arch == "llama" and kind == "llama3":
        return head_dim // 2
    if arch == "phi3" and kind in ("longrope", "su", "yarn"):
        share = f.raw.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0))
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
            raise f.fail("partial_rotary_factor", f'is "{clean(str(share), 40)}", but must be above 0 and at most 1')
        return int(share * head_dim) // 2
    return 0


def _window(f: Fields, known: Known | None, context: int | None, notes: list[str]) -> tuple[int | None, int | None]:
    window = f.whole("sliding_window", low=0, high=MAX_CONTEXT)
    if known and known.pattern:
        pattern = f.whole("sliding_window_pattern", "_sliding_window_pattern", high=MAX_LAYERS) or known.pattern
        return (window or known.window), pattern
    if window and window < (context or window) and f.raw.get("use_sliding_window") is not False:
        notes.append(
            f"the sliding window of {window} tokens is not used by llama.cpp for this architecture; "
            "the cache is counted for the whole context"
        )
    return None, None


def _experts(f: Fields, known: Known | None, layers: int, intermediate: int, notes: list[str]) -> dict[str, int]:
    experts = f.whole("num_local_experts", "num_experts", "n_routed_experts", low=0, high=MAX_EXPERTS) or 0
    if experts < 2:
        return {}
    used = f.whole("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "top_k", high=experts)
    if used is None:
        if known:
            f.need("num_experts_per_tok", high=experts)
        used = max(1, experts // 8)
        notes.append(f"low confidence: experts used for a token are not named; {used} of {experts} are assumed")
    width = f.whole("moe_intermediate_size", "expert_intermediate_size", high=MAX_WIDTH) or intermediate
    shared = f.whole("shared_expert_intermediate_size", low=0, high=MAX_WIDTH)
    if shared is None:
        shared = (f.whole("n_shared_experts", low=0, high=MAX_EXPERTS) or 0) * width
    dense = f.whole("first_k_dense_replace", low=0, high=layers) or 0
    only = f.raw.get("mlp_only_layers")
    if isinstance(only, list) and only:
        if sorted(map(str, only)) == sorted(map(str, range(len(only)))) and len(only) <= layers:
            dense = len(only)
        else:
            notes.append("low confidence: dense layers lie between the layers with experts")
    if (f.whole("decoder_sparse_step", high=MAX_LAYERS) or 1) > 1:
        notes.append("low confidence: only some layers have experts")
    return {
        "experts": experts,
        "experts_used": used,
        "expert_intermediate": width,
        "shared_expert_intermediate": shared,
        "dense_layers": dense,
    }


def _dtype(f: Fields, notes: list[str]) -> str | None:
    quantized = f.raw.get("quantization_config")
    if isinstance(quantized, Mapping):
        method = clean(str(quantized.get("quant_method", "unknown")), 40)
        bits = quantized.get("bits")
        notes.append(f"already quantized: {method}" + (f", {bits} bits" if isinstance(bits, int) else ""))
        return method
    name = f.raw.get("torch_dtype") or f.raw.get("dtype")
    return _DTYPES.get(name.removeprefix("torch.")) if isinstance(name, str) else None


def _doubts(f: Fields, model_type: str, known: Known | None, layers: int) -> list[str]:
    """Why the tensor list may differ from the model's own."""
    if known is None:
        return [f"low confidence: unknown architecture {model_type or '(no model_type)'}"]
    out = []
    if model_type == "stablelm" and (f.flag("use_parallel_residual", False) or f.flag("qk_layernorm", False)):
        out.append("low confidence: this variant of stablelm has further norms")
    for name in ("intermediate_size", "num_key_value_heads"):
        if isinstance(f.raw.get(name), list):
            raise f.fail(name, "differs by layer, which is not supported")
    types = f.raw.get("layer_types")
    if types is not None and (not isinstance(types, list) or len(types) != layers):
        raise f.fail("layer_types", f"does not list {layers} layers")
    return out


def from_config(
    config: Mapping[str, Any], *, name: str, ref: str, kind: Any = "folder", where: str = "config.json", **extra: Any
) -> ModelFacts:
    """Architecture facts from a configuration in transformers' names.

    Args:
        config: the decoded config.json.
        name: the model's name, for display.
        ref: the reference it was found by.
        kind: a ``ModelKind``.
        where: what to call the file in messages.
        extra: further ``ModelFacts`` fields (path, source, licence ...).

    Returns:
        Facts with ``params`` and ``active_params`` summed from the tensor list.

    Raises:
        AdvisorError: ``untrusted-model-config`` naming the field and the value seen.
    """
    part, other_parts = text_part(config, where)
    f = Fields(part, where)
    model_type = f.text("model_type") or ""
    if model_type == "gemma3":
        model_type = "gemma3_text"
    known = MODEL_TYPES.get(model_type)
    if model_type == "gemma3_text" and other_parts:
        for key, default in _GEMMA3_DEFAULTS.items():
            part.setdefault(key, default)
    notes: list[str] = []
    layers = f.need("num_hidden_layers", "n_layer", "n_layers", "num_layers", high=MAX_LAYERS)
    notes += _doubts(f, model_type, known, layers)
    hidden = f.need("hidden_size", "n_embd", "d_model", high=MAX_WIDTH)
    heads = f.whole("num_attention_heads", "n_head", "n_heads", high=MAX_HEADS)
    if heads is None:
        if known:
            f.need("num_attention_heads", high=MAX_HEADS)
        heads = max(1, hidden // 128)
        notes.append("low confidence: no attention heads are named; heads of 128 are assumed")
    kv_heads = f.whole("num_key_value_heads", "num_kv_heads", "multi_query_group_num", high=MAX_HEADS) or heads
    if heads % kv_heads:
        raise f.fail("num_key_value_heads", f"is {kv_heads}, which does not divide {heads} attention heads")
    head_dim = f.whole("head_dim", high=MAX_WIDTH) or (known.head_dim if known else None)
    if head_dim is None:
        if hidden % heads and known:
            raise f.fail("hidden_size", f"is {hidden}, which {heads} attention heads do not divide")
        head_dim = max(1, hidden // heads)
    intermediate = f.whole("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", high=MAX_WIDTH)
    if intermediate is None:
        if known:
            f.need("intermediate_size", high=MAX_WIDTH)
        intermediate = min(4 * hidden, MAX_WIDTH)
    context = f.whole(
        "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", high=MAX_CONTEXT
    )
    window, pattern = _window(f, known, context, notes)
    bias_key = "use_qkv_bias" if model_type == "stablelm" else "attention_bias"
    experts = _experts(f, known, layers, intermediate, notes)
    arch = known.arch if known else clean(model_type.replace("_", "") or "unknown", 40)
    dtype = _dtype(f, notes)
    packed = quantized.read(f.raw.get("quantization_config"))
    if other_parts:
        notes.append("only the language part is counted; parts for images or sound come on top")
    low = any(n.startswith("low confidence") for n in notes)
    notes += list(extra.pop("notes", ()))
    facts = ModelFacts(
        name=clean(name),
        ref=clean(ref),
        kind=kind,
        architecture=arch,
        model_type=model_type or "unknown",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocab=f.need("vocab_size", high=MAX_VOCAB),
        context_max=context,
        tie_embeddings=f.flag("tie_word_embeddings", known.tied if known else False),
        attention_bias=f.flag(bias_key, known.attention_bias if known else False),
        qk_norm=arch.startswith(("qwen3", "gemma3", "olmo2")),
        mlp_bias=f.flag("mlp_bias", False),
        rope_factors=_rope_factors(f, arch, head_dim),
        sliding_window=window,
        sliding_pattern=pattern,
        params=0,
        active_params=0,
        weights_dtype=dtype,
        quantized_method=packed.method,
        quantized_format=packed.format,
        confidence="low" if low else "derived",
        notes=tuple(notes),
        **extra,
    )
    facts = msgspec.structs.replace(facts, **experts)
    params, active = count(computed(facts), facts.experts, facts.experts_used)
    return msgspec.structs.replace(facts, params=params, active_params=active)
