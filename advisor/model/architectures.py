"""From config.json, in the names of transformers, to architecture facts in the terms of llama.cpp.

Every value is checked: type, range, presence. An unknown architecture gets a generic estimate of low confidence that
says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.text import clean
from advisor.model import families, quantized, vision
from advisor.model.families import ALIASES, FAMILIES, Known
from advisor.model.fields import CODE, MAX_CONTEXT, MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Fields
from advisor.model.names import human
from advisor.model.tensors import computed, count

_EXPERT_COUNT: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_USED: Final = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_top_k",
    "moe_topk",
    "moe_k",
    "top_k",
)
# Architectures whose converters write a table of rotary factors for Llama 3's scaling.
_LLAMA3_ROPE: Final = ("llama", "llama4", "mistral3", "smollm3", "exaone", "exaone4", "exaone-moe", "apertus", "arcee")
_SHARED_COUNT: Final = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
# Sizes that some architectures give for each layer.
_BY_LAYER: Final = (
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_kv_heads",
    "num_query_heads",
    "moe_intermediate_size",
    "moe_topk",
    "num_experts",
    "num_local_experts",
)
_DTYPES: Final = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "float": "f32", "half": "f16"}


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


def _rope_factors(f: Fields, arch: str, head_dim: int) -> int:
    rope = f.rope()
    kind = rope.get("rope_type") or rope.get("type")
    if arch in _LLAMA3_ROPE and kind == "llama3":
        return head_dim // 2
    if arch in ("phi3", "phimoe") and kind in ("longrope", "su", "yarn"):
        share = f.share("partial_rotary_factor", f.share("partial_rotary_factor", 1.0, rope))
        return int(share * head_dim) // 2
    return 0


def _window(f: Fields, known: Known | None, context: int | None, notes: list[str]) -> tuple[int | None, int | None]:
    window = f.whole("sliding_window", low=0, high=MAX_CONTEXT)
    if known and known.pattern:
        pattern = f.whole("sliding_window_pattern", "_sliding_window_pattern", high=MAX_LAYERS) or known.pattern
        window = window or known.window
        return (window, pattern) if window else (None, None)
    if window and window < (context or window) and f.raw.get("use_sliding_window") is not False:
        notes.append(
            f"the sliding window of {window} tokens is not used by llama.cpp for this architecture; "
            "the cache is counted for the whole context"
        )
    return None, None


def _experts(f: Fields, known: Known | None, layers: int, intermediate: int, notes: list[str]) -> dict[str, int]:
    experts = f.whole(*_EXPERT_COUNT, low=0, high=MAX_EXPERTS) or 0
    if experts < 2:
        return {}
    used = f.whole(*_EXPERTS_USED, high=experts)
    if used is None:
        if known:
            f.need("num_experts_per_tok", high=experts)
        used = max(1, experts // 8)
        notes.append(f"low confidence: experts used for a token are not named; {used} of {experts} are assumed")
    width = f.whole("moe_intermediate_size", "expert_intermediate_size", high=MAX_WIDTH) or intermediate
    shared = f.whole("shared_expert_intermediate_size", "shared_intermediate_size", low=0, high=MAX_WIDTH)
    if shared is None:
        shared = (f.whole(*_SHARED_COUNT, low=0, high=MAX_EXPERTS) or 0) * width
        if shared > MAX_WIDTH:
            raise f.fail("n_shared_experts", f"makes shared experts {shared} wide, but {MAX_WIDTH} is the most")
    dense = f.whole("first_k_dense_replace", "moe_layer_start_index", low=0, high=layers) or 0
    kinds = f.raw.get("mlp_layer_types")
    if isinstance(kinds, list) and kinds:
        dense = next((i for i, k in enumerate(kinds[:layers]) if k != "dense"), min(len(kinds), layers))
    only = f.raw.get("mlp_only_layers")
    if isinstance(only, list) and only:
        if sorted(map(str, only)) == sorted(map(str, range(len(only)))) and len(only) <= layers:
            dense = len(only)
        else:
            notes.append("low confidence: dense layers lie between the layers with experts")
    if (f.whole("decoder_sparse_step", "moe_layer_interval", high=MAX_LAYERS) or 1) > 1:
        notes.append("low confidence: only some layers have experts")
    return {
        "experts": experts,
        "experts_used": used,
        "expert_intermediate": width,
        "shared_expert_intermediate": shared,
        "dense_layers": dense,
    }


def _flatten(part: dict[str, Any]) -> list[str]:
    """Of values that an unknown architecture gives for each layer, the largest."""
    differ = []
    for key, value in part.items():
        if key not in _BY_LAYER or not isinstance(value, list) or not 0 < len(value) <= MAX_LAYERS:
            continue
        if all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            part[key] = max(value)
            differ.append(key)
    return [f"low confidence: {', '.join(differ)} differ by layer; the largest is taken"] if differ else []


def _stored(config: Mapping[str, Any], method: str) -> str:
    """What natively quantized checkpoints leave as it is, or scale together."""
    block = config.get("weight_block_size")
    if isinstance(block, list) and len(block) == 2 and all(isinstance(b, int) and 0 < b <= MAX_WIDTH for b in block):
        return f" in blocks of {block[0]} x {block[1]}"
    return " (the experts; other weights are 16-bit)" if method == "mxfp4" else ""


def _dtype(f: Fields, notes: list[str]) -> str | None:
    quantized = f.raw.get("quantization_config")
    if isinstance(quantized, Mapping):
        method = clean(str(quantized.get("quant_method", "unknown")), 40)
        bits = quantized.get("bits")
        detail = f", {bits} bits" if isinstance(bits, int) else _stored(quantized, method)
        notes.append(f"already quantized: {method}{detail}")
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
    if config.get("model_type") == "mistral3" and model_type in ("mistral", "mistral3_text"):
        model_type = "ministral3"  # what its converter makes of it
    model_type = ALIASES.get(model_type, model_type)
    known = FAMILIES.get(model_type)
    notes: list[str] = []
    own_notes = tuple(extra.pop("notes", ()))
    family = families.load(known.module) if known else None
    if known and family:
        part["model_type"] = model_type
        for defaults in (known.defaults, known.nested if other_parts else {}):
            for key, default in defaults.items():
                if part.get(key) is None:
                    part[key] = default
        family.prepare(part)
    else:
        notes += _flatten(part)
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
    experts = _experts(f, known, layers, intermediate, notes)
    arch = known.arch if known else clean(model_type.replace("_", "") or "unknown", 40)
    dtype = _dtype(f, notes)
    packed = quantized.read(f.raw.get("quantization_config"))
    seen = vision.params(Fields(config, where), hidden) if other_parts else None
    if other_parts:
        size = f" ({human(seen)} weights for images)" if seen else ""
        notes.append(f"weights are counted of the language part; parts for images or sound come on top{size}")
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
        attention_bias=f.flag(known.bias_key, known.attention_bias) if known else f.flag("attention_bias", False),
        mlp_bias=f.flag("mlp_bias", False),
        rope_factors=_rope_factors(f, arch, head_dim),
        sliding_window=window,
        sliding_pattern=pattern,
        params=0,
        active_params=0,
        weights_dtype=dtype,
        quantized_method=packed.method,
        quantized_format=packed.format,
        vision_params=seen,
        **extra,
    )
    facts = msgspec.structs.replace(facts, **experts)
    changes = family.read(f, facts) if family else {}
    notes += changes.pop("notes", ())
    low = any(n.startswith("low confidence") for n in notes)
    facts = msgspec.structs.replace(
        facts, notes=(*notes, *own_notes), confidence="low" if low else "derived", **changes
    )
    params, active = count(computed(facts), facts.experts, facts.experts_used, layers)
    return msgspec.structs.replace(facts, params=params, active_params=active)
