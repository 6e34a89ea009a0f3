"""Families of architectures: who reads a ``model_type``'s configuration, and who knows the tensors of its layers.

A family is loaded when a model of it is met.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple

from advisor.model.families.base import Family


class Known(NamedTuple):
    """A ``model_type``: llama.cpp's architecture, the module of its family, and defaults of its configuration class.

    ``defaults`` fill in keys that a configuration leaves out; ``nested`` those that it leaves out where it is only the
    ``text_config`` of a model with other parts.
    """

    arch: str
    module: str = "decoder"
    tied: bool = False
    attention_bias: bool = False
    bias_key: str = "attention_bias"
    pattern: int | None = None  # every n-th layer has full attention, the others a window
    window: int | None = None
    head_dim: int | None = None
    defaults: Mapping[str, Any] = {}
    nested: Mapping[str, Any] = {}


_LLAMA_NESTED: Final = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "intermediate_size": 11_008,
    "vocab_size": 32_000,
}
_GEMMA3_NESTED: Final = {
    "vocab_size": 262_144,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
}
_GEMMA3N: Final = {
    "vocab_size": 262_400,
    "hidden_size": 2_048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "sliding_window": 512,
    "max_position_embeddings": 32_768,
}
_GEMMA4: Final = {"vocab_size": 262_144, "head_dim": 256, "sliding_window": 512, "max_position_embeddings": 131_072}
_LLAMA4: Final = {
    "hidden_size": 5_120,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8_192,
    "intermediate_size_mlp": 16_384,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "vocab_size": 202_048,
}
_QWEN2_VL: Final = Known("qwen2vl", attention_bias=True)
_DSEEK: Final = Known("deepseek2", "latent")

FAMILIES: Final[dict[str, Known]] = {
    "llama": Known("llama", nested=_LLAMA_NESTED),
    "mistral": Known("llama"),
    "mixtral": Known("llama"),
    "internlm3": Known("llama", bias_key="qkv_bias"),
    "ministral3": Known("mistral3"),
    "llama4": Known("llama4", "llama4", window=8_192, pattern=4),
    "llama4_text": Known("llama4", "llama4", window=8_192, pattern=4, nested=_LLAMA4),
    "qwen2": Known("qwen2", attention_bias=True),
    "qwen2_moe": Known("qwen2moe", attention_bias=True),
    "qwen2_vl": _QWEN2_VL,
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen3": Known("qwen3", head_dim=128),
    "qwen3_moe": Known("qwen3moe", head_dim=128),
    "qwen3_vl_text": Known("qwen3vl", head_dim=128),
    "qwen3_vl_moe_text": Known("qwen3vlmoe", head_dim=128),
    "gemma": Known("gemma", tied=True, head_dim=256),
    "gemma2": Known("gemma2", tied=True, pattern=2, window=4096, head_dim=256),
    "gemma3_text": Known("gemma3", tied=True, pattern=6, window=4096, head_dim=256, nested=_GEMMA3_NESTED),
    "gemma3n_text": Known("gemma3n", "gemma3n", tied=True, pattern=5, defaults=_GEMMA3N),
    "gemma4_text": Known("gemma4", "gemma4", tied=True, pattern=6, defaults=_GEMMA4),
    "phi": Known("phi2", attention_bias=True, defaults={"mlp_bias": True}),
    "phi3": Known("phi3"),
    "phimoe": Known("phimoe", attention_bias=True, defaults={"num_local_experts": 16, "num_experts_per_tok": 2}),
    "granite": Known("granite"),
    "granitemoe": Known("granitemoe", defaults={"num_experts_per_tok": 2}),
    "granitemoeshared": Known("granitemoe", defaults={"num_experts_per_tok": 2}),
    "smollm3": Known("smollm3", tied=True),
    "internlm2": Known("internlm2", bias_key="bias"),
    "olmo2": Known("olmo2"),
    "olmo3": Known("olmo2", pattern=4, window=4096),
    "olmoe": Known("olmoe"),
    "stablelm": Known("stablelm", bias_key="use_qkv_bias"),
    "gpt_oss": Known("gpt-oss", attention_bias=True, pattern=2, window=128, head_dim=64),
    "deepseek": Known("deepseek"),
    "deepseek_v2": _DSEEK,
    "deepseek_v3": _DSEEK,
    "kimi_k2": _DSEEK,
    "glm4_moe_lite": _DSEEK,
    "youtu": _DSEEK,
    "deepseek_v32": Known("deepseek32", "latent"),
    "glm_moe_dsa": Known("glm-dsa", "latent"),
    "glm": Known("chatglm", attention_bias=True, head_dim=128),
    "chatglm": Known("chatglm", bias_key="add_qkv_bias"),
    "glm4": Known("glm4", head_dim=128),
    "glm4v_text": Known("glm4", attention_bias=True),
    "glm4_moe": Known("glm4moe", "glm4moe", head_dim=128),
    "solar_open": Known("glm4moe", "glm4moe", head_dim=128),
    "glm4v_moe_text": Known("glm4moe", "glm4moe", attention_bias=True, head_dim=128),
    "cohere": Known("command-r", tied=True),
    "cohere2": Known("cohere2", tied=True, pattern=4, window=4096),
    "falcon": Known("falcon", tied=True, bias_key="bias"),
    "starcoder2": Known("starcoder2", tied=True, attention_bias=True, bias_key="use_bias"),
    "gpt2": Known("gpt2", tied=True, attention_bias=True, defaults={"mlp_bias": True}),
    "gpt_neox": Known("gptneox", attention_bias=True, defaults={"mlp_bias": True}),
    "bloom": Known("bloom", tied=True, attention_bias=True, defaults={"mlp_bias": True}),
    "nemotron": Known("nemotron"),
    "arcee": Known("arcee"),
    "minicpm": Known("minicpm", tied=True),
    "ernie4_5": Known("ernie4_5", tied=True, bias_key="use_bias", head_dim=128),
    "ernie4_5_moe": Known("ernie4_5-moe", tied=True, bias_key="use_bias"),
    "exaone": Known("exaone"),
    "exaone4": Known("exaone4", pattern=4),
    "exaone_moe": Known("exaone-moe", pattern=4, window=128),
    "apertus": Known("apertus"),
    "seed_oss": Known("seed_oss", attention_bias=True, head_dim=128),
    "minimax_m2": Known("minimax-m2", head_dim=128),
    "hunyuan_v1_dense": Known("hunyuan-dense"),
    "hunyuan_v1_moe": Known("hunyuan-moe"),
    "hunyuan_vl_text": Known("hunyuan_vl"),
    "dots1": Known("dots1"),
    "qwen3_next": Known("qwen3next", "hybrid_qwen", head_dim=256),
    "qwen3_5_text": Known("qwen35", "hybrid_qwen", head_dim=256),
    "qwen3_5_moe_text": Known("qwen35moe", "hybrid_qwen", head_dim=256),
    "mamba": Known("mamba", "hybrid_mamba", tied=True),
    "falcon_mamba": Known("mamba", "hybrid_mamba", tied=True),
    "mamba2": Known("mamba2", "hybrid_mamba"),
    "jamba": Known("jamba", "hybrid_mamba"),
    "granitemoehybrid": Known("granitehybrid", "hybrid_mamba"),
    "bamba": Known("granitehybrid", "hybrid_mamba"),
    "falcon_h1": Known("falcon-h1", "hybrid_mamba"),
    "nemotron_h": Known("nemotron_h", "hybrid_nemotron"),
    "lfm2": Known("lfm2", "hybrid_lfm", tied=True),
    "lfm2_moe": Known("lfm2moe", "hybrid_lfm", tied=True),
    "kimi_linear": Known("kimi-linear", "hybrid_kimi"),
}
# What a model is called on the outside, where its language part alone has that name too.
ALIASES: Final = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_text",
    "gemma4_unified_text": "gemma4_text",
    "hunyuan": "hunyuan_v1_moe",
}
# llama.cpp's architectures that a family knows, by the module.
ARCHITECTURES: Final[dict[str, str]] = {k.arch: k.module for k in FAMILIES.values()}
ARCHITECTURES["nemotron_h_moe"] = "hybrid_nemotron"


@cache
def load(module: str) -> Family:
    """The family of a module of this package."""
    found = import_module(f"advisor.model.families.{module}").FAMILY
    assert isinstance(found, Family)
    return found


def of_architecture(arch: str) -> Family:
    """The family of one of llama.cpp's architectures; of an unknown one, that of plain decoders."""
    return load(ARCHITECTURES.get(arch, "decoder"))
