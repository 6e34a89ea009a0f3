"""How the blocks of plain decoders differ from llama's."""

from __future__ import annotations

from typing import Final, NamedTuple


class Style(NamedTuple):
    """How the blocks of an architecture are built.

    ``norms`` are the weight vectors of the model's width in each block. ``qk_norm`` says whether queries and keys are
    normed by head with one vector (``head``), with one vector a head (``heads``), over their whole width (``full``) or
    not at all; ``optional_norm`` that the configuration decides. ``fused_qkv``: query, key and value are one matrix;
    ``fused_ffn``: gate and up are one; ``gate``: the network is gated.
    """

    norms: tuple[str, ...] = ("attn_norm", "ffn_norm")
    qk_norm: str | None = None
    optional_norm: bool = False
    fused_qkv: bool = False
    fused_ffn: bool = False
    gate: bool = True
    norm_bias: bool = False
    output_bias: bool = True  # where attention has biases at all
    last_bias: bool = False  # a bias on the output matrix
    embedding_norm: bool = False
    positions: bool = False  # a table of position embeddings
    shared_gate: bool = False
    probs_bias: bool = False  # a correction of the router's choice by expert
    oss: bool = False  # gpt-oss: attention sinks, biases on router and experts


PLAIN: Final = Style()
_AFTER: Final = ("post_attention_norm", "post_ffw_norm")
_AROUND: Final = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
_FIRST: Final = ("attn_norm",)
_CLASSIC: Final = Style(fused_qkv=True, gate=False, norm_bias=True)

# By llama.cpp's architecture.
STYLES: Final[dict[str, Style]] = {
    "qwen2": Style(output_bias=False),
    "qwen2vl": Style(output_bias=False),
    "qwen2moe": Style(output_bias=False, shared_gate=True),
    "qwen3": Style(qk_norm="head"),
    "qwen3vl": Style(qk_norm="head"),
    "qwen3moe": Style(qk_norm="head"),
    "qwen3vlmoe": Style(qk_norm="head"),
    "gemma2": Style(norms=_AROUND),
    "gemma3": Style(norms=_AROUND, qk_norm="head"),
    "phi2": Style(norms=_FIRST, gate=False, norm_bias=True, last_bias=True),
    "phi3": Style(fused_qkv=True, fused_ffn=True),
    "phimoe": Style(norm_bias=True, last_bias=True),
    "olmo2": Style(norms=_AFTER, qk_norm="full"),
    "olmoe": Style(qk_norm="full"),
    "stablelm": Style(norm_bias=True, output_bias=False),
    "gpt-oss": Style(norms=("attn_norm", "post_attention_norm"), oss=True),
    "chatglm": Style(fused_ffn=True, fused_qkv=True, output_bias=False),
    "glm4": Style(norms=_AROUND, fused_ffn=True, output_bias=False),
    "command-r": Style(norms=_FIRST, qk_norm="heads", optional_norm=True),
    "cohere2": Style(norms=_FIRST),
    "falcon": Style(norms=_FIRST, fused_qkv=True, gate=False, norm_bias=True),
    "starcoder2": Style(gate=False, norm_bias=True),
    "gpt2": _CLASSIC._replace(positions=True),
    "gptneox": _CLASSIC,
    "bloom": _CLASSIC._replace(embedding_norm=True),
    "nemotron": Style(gate=False, norm_bias=True),
    "arcee": Style(gate=False),
    "ernie4_5-moe": Style(probs_bias=True),
    "exaone4": Style(norms=_AFTER, qk_norm="head"),
    "exaone-moe": Style(qk_norm="head", probs_bias=True),
    "apertus": Style(gate=False, qk_norm="head"),
    "seed_oss": Style(norms=("attn_norm", "post_attention_norm"), output_bias=False),
    "minimax-m2": Style(qk_norm="full", probs_bias=True),
    "hunyuan-dense": Style(qk_norm="head"),
    "hunyuan_vl": Style(qk_norm="head"),
    "hunyuan-moe": Style(qk_norm="head"),
    "dots1": Style(qk_norm="head", probs_bias=True),
}
# Where a model_type is converted otherwise than others of its architecture.
BY_TYPE: Final[dict[str, Style]] = {"glm": Style(fused_ffn=True, output_bias=False)}
