"""What is known of a model before any weight is loaded."""

from __future__ import annotations

from typing import Literal

from advisor.facts.base import Shape

ModelKind = Literal["hub", "folder", "gguf", "pypi", "size"]
Confidence = Literal["exact", "derived", "low"]
TensorRole = Literal[
    "token_embd",
    "output",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "ffn_gate_exps",
    "ffn_up_exps",
    "ffn_down_exps",
    "ffn_gate_inp",
    "norm",
    "bias",
    "other",
]


class TensorSpec(Shape, frozen=True, kw_only=True):
    """One tensor under its GGUF name. ``shape`` is (rows, columns): columns is the row width that blocks must divide.

    Three-dimensional expert tensors are (experts, rows, columns). ``layer`` is ``None`` outside the blocks.
    ``gguf_type`` is the stored type in lower case where the file says so.
    """

    name: str
    shape: tuple[int, ...]
    role: TensorRole
    layer: int | None = None
    gguf_type: str | None = None

    @property
    def elements(self) -> int:
        """Number of weights."""
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def width(self) -> int:
        """Length of one row, in weights."""
        return self.shape[-1]

    @property
    def packed(self) -> bool:
        """Whether quantizers of checkpoints pack it: a matrix of a layer. Norms, biases, routers, convolutions and
        state matrices stay as they are, and so do embeddings and output."""
        if self.layer is None or len(self.shape) < 2 or self.role in ("norm", "bias", "ffn_gate_inp"):
            return False
        return "conv" not in self.name and "ssm_a" not in self.name


class ModelFacts(Shape, frozen=True, kw_only=True):
    """Architecture facts in the terms of the engine.

    ``architecture`` is llama.cpp's name (``llama``, ``qwen2``, ``gemma3`` ...). ``kv_heads`` and ``head_dim`` are per
    layer lists only where layers differ, otherwise one number. ``weights_format`` says what lies on disk: nothing,
    safetensors, or GGUF (then ``source_types`` counts tensor bytes by type). ``weights_bytes`` is their size on disk.
    ``path`` is set for local sources only. ``rope_factors`` is the length of the table of rotary frequency factors that
    converters add to the file (0: none); it holds no weights. ``sliding_window`` is what llama.cpp uses, in tokens, and
    every ``sliding_pattern``-th layer attends to the full context. ``quantized_method`` and ``quantized_format``: of a
    checkpoint that is quantized already, in the contract's words, where its configuration tells. Widths are in
    elements, ``params`` in weights.

    ``layer_kinds`` says what each layer keeps of the past, one word a layer: ``full`` (keys and values of the whole
    context), ``window``, ``latent`` (compressed, MLA), ``recurrent`` (a state of fixed size), ``both`` (attention and a
    recurrent state), ``none`` (nothing of its own); empty where ``sliding_pattern`` tells it all. ``widths``: what only
    some architectures have, under the suffix of llama.cpp's metadata key (``attention.kv_lora_rank``,
    ``ssm.conv_kernel``, ``leading_dense_block_count`` ...). ``vision_params``: weights of the parts for images (and
    sound), which ``params`` does not count; ``None`` where there are none or they are unknown.
    """

    name: str
    ref: str
    kind: ModelKind
    revision: str | None = None
    path: str | None = None
    architecture: str
    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context_max: int | None
    tie_embeddings: bool
    attention_bias: bool = False
    qk_norm: bool = False
    mlp_bias: bool = False
    rope_factors: int = 0
    layer_kinds: tuple[str, ...] = ()
    widths: dict[str, int] = {}
    vision_params: int | None = None
    experts: int = 0
    experts_used: int = 0
    expert_intermediate: int = 0
    shared_expert_intermediate: int = 0
    dense_layers: int = 0
    sliding_window: int | None = None
    sliding_pattern: int | None = None
    params: int
    active_params: int
    weights_format: Literal["none", "safetensors", "gguf"] = "none"
    weights_dtype: str | None = None
    quantized_method: str | None = None
    quantized_format: str | None = None
    weights_bytes: int | None = None
    source_types: dict[str, int] = {}
    chat_template: bool | None = None
    license: str | None = None
    confidence: Confidence = "derived"
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def gqa(self) -> int:
        """Query heads per KV head."""
        return self.heads // self.kv_heads if self.kv_heads else 1

    @property
    def blocks(self) -> int:
        """Layers as llama.cpp counts them when it offloads: with those past the last that predict further tokens."""
        return self.layers + self.widths.get("nextn_predict_layers", 0)
