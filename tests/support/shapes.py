"""Well-known architectures for cost tests: model facts, tensors and GGUF metadata, without any weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from advisor.facts.machine import Cpu, Device, DeviceMemory, Host, HostMemory, Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.quantity import Quantity, exact
from advisor.model.tensors import role_of
from tests.support.gguf_writer import write_gguf


class Arch(NamedTuple):
    """Widths of one architecture; ``scaled`` makes a narrow copy with the same layers, heads ratio and experts."""

    arch: str
    layers: int
    hidden: int
    ff: int
    heads: int
    kv: int
    dim: int
    vocab: int
    tied: bool = False
    bias: bool = False
    qk_norm: bool = False
    post_norm: bool = False
    experts: int = 0
    used: int = 0
    expert_ff: int = 0
    window: int | None = None
    pattern: int | None = None


KNOWN: dict[str, Arch] = {
    "llama-3.1-8b": Arch("llama", 32, 4096, 14336, 32, 8, 128, 128256),
    "llama-3.3-70b": Arch("llama", 80, 8192, 28672, 64, 8, 128, 128256),
    "llama-2-7b": Arch("llama", 32, 4096, 11008, 32, 32, 128, 32000),
    "mixtral-8x7b": Arch("llama", 32, 4096, 14336, 32, 8, 128, 32000, experts=8, used=2, expert_ff=14336),
    "qwen2.5-7b": Arch("qwen2", 28, 3584, 18944, 28, 4, 128, 152064, bias=True),
    "qwen2.5-72b": Arch("qwen2", 80, 8192, 29568, 64, 8, 128, 152064, bias=True),
    "qwen2.5-0.5b": Arch("qwen2", 24, 896, 4864, 14, 2, 64, 151936, tied=True, bias=True),
    "qwen3-8b": Arch("qwen3", 36, 4096, 12288, 32, 8, 128, 151936, qk_norm=True),
    "qwen3-0.6b": Arch("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, tied=True, qk_norm=True),
    "qwen3-30b-a3b": Arch(
        "qwen3moe", 48, 2048, 6144, 32, 4, 128, 151936, qk_norm=True, experts=128, used=8, expert_ff=768
    ),
    "gemma-2-9b": Arch(
        "gemma2", 42, 3584, 14336, 16, 8, 256, 256000, tied=True, post_norm=True, window=4096, pattern=2
    ),
    "gemma-3-27b": Arch(
        "gemma3", 62, 5376, 21504, 32, 16, 128, 262208, tied=True, qk_norm=True, post_norm=True, window=1024, pattern=6
    ),
    "tinyllama-1.1b": Arch("llama", 22, 2048, 5632, 32, 4, 64, 32000),
    "smollm2-135m": Arch("llama", 30, 576, 1536, 9, 3, 64, 49152, tied=True),
}


def shapes(a: Arch) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor, as converters name them."""
    out: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (a.vocab, a.hidden))]
    out.append(("output_norm.weight", (a.hidden,)))
    if not a.tied:
        out.append(("output.weight", (a.vocab, a.hidden)))
    q, k = a.heads * a.dim, a.kv * a.dim
    for i in range(a.layers):
        block: list[tuple[str, tuple[int, ...]]] = [
            ("attn_norm.weight", (a.hidden,)),
            ("attn_q.weight", (q, a.hidden)),
            ("attn_k.weight", (k, a.hidden)),
            ("attn_v.weight", (k, a.hidden)),
            ("attn_output.weight", (a.hidden, q)),
            ("ffn_norm.weight", (a.hidden,)),
        ]
        if a.bias:
            block += [("attn_q.bias", (q,)), ("attn_k.bias", (k,)), ("attn_v.bias", (k,))]
        if a.qk_norm:
            block += [("attn_q_norm.weight", (a.dim,)), ("attn_k_norm.weight", (a.dim,))]
        if a.post_norm:
            block += [("post_attention_norm.weight", (a.hidden,)), ("post_ffw_norm.weight", (a.hidden,))]
        if a.experts:
            block += [
                ("ffn_gate_inp.weight", (a.experts, a.hidden)),
                ("ffn_gate_exps.weight", (a.experts, a.expert_ff, a.hidden)),
                ("ffn_up_exps.weight", (a.experts, a.expert_ff, a.hidden)),
                ("ffn_down_exps.weight", (a.experts, a.hidden, a.expert_ff)),
            ]
        else:
            block += [
                ("ffn_gate.weight", (a.ff, a.hidden)),
                ("ffn_up.weight", (a.ff, a.hidden)),
                ("ffn_down.weight", (a.hidden, a.ff)),
            ]
        out += [(f"blk.{i}.{name}", shape) for name, shape in block]
    return out


def tensors(a: Arch) -> tuple[TensorSpec, ...]:
    """The tensors of the architecture."""
    out = []
    for name, shape in shapes(a):
        role, layer = role_of(name)
        out.append(TensorSpec(name=name, shape=shape, role=role, layer=layer))
    return tuple(out)


def facts(a: Arch, name: str = "model", **more: Any) -> ModelFacts:
    """Model facts that belong to ``tensors(a)``."""
    params = active = 0
    for t in tensors(a):
        params += t.elements
        active += t.elements * a.used // a.experts if "_exps" in t.name else t.elements
    given: dict[str, Any] = {
        "name": name,
        "ref": name,
        "kind": "hub",
        "architecture": a.arch,
        "model_type": a.arch,
        "layers": a.layers,
        "hidden": a.hidden,
        "heads": a.heads,
        "kv_heads": a.kv,
        "head_dim": a.dim,
        "intermediate": a.ff,
        "vocab": a.vocab,
        "context_max": 131072,
        "tie_embeddings": a.tied,
        "experts": a.experts,
        "experts_used": a.used,
        "expert_intermediate": a.expert_ff,
        "sliding_window": a.window,
        "sliding_pattern": a.pattern,
        "params": params,
        "active_params": active,
    }
    return ModelFacts(**{**given, **more})


def tokenizer(vocab: int, *, merges: bool = False) -> dict[str, Any]:
    """A byte-level vocabulary of that size, enough for the engine to tokenize any text.

    ``merges``: with words as long as real ones, and a rule for each, so that its tables are as large as real ones.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in plain}
    for n, b in enumerate(b for b in range(256) if b not in letters):
        letters[b] = chr(256 + n)
    words = [letters[b] for b in range(256)]
    words += [f"{'xyz' * merges}<x{i}>" for i in range(vocab - len(words))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": words[:vocab],
        "tokenizer.ggml.merges": [f"{w[:3]} {w[3:]}" for w in words[256:vocab]] if merges else ["Ġ t"],
        "tokenizer.ggml.bos_token_id": 300,
        "tokenizer.ggml.eos_token_id": 301,
    }


def write(
    path: Path,
    a: Arch,
    types: dict[str, str] | str = "f16",
    *,
    sparse: bool = True,
    words: bool = False,
    filled: bool = False,
    merges: bool = False,
) -> Path:
    """Write a GGUF file of the architecture: a true header and a body of zeros, or of random weights if ``filled``.

    Args:
        types: one type for all matrices, or by tensor name; vectors and routers are f32.
        words: with a vocabulary, so that a server can take prompts.
        merges: as for ``tokenizer``.
    """
    p = a.arch
    meta: dict[str, Any] = {
        "general.architecture": p,
        "general.name": path.stem,
        f"{p}.block_count": a.layers,
        f"{p}.context_length": 131072,
        f"{p}.embedding_length": a.hidden,
        f"{p}.feed_forward_length": a.ff,
        f"{p}.attention.head_count": a.heads,
        f"{p}.attention.head_count_kv": a.kv,
        f"{p}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{p}.attention.key_length": a.dim,
        f"{p}.attention.value_length": a.dim,
        f"{p}.rope.dimension_count": a.dim,
        f"{p}.vocab_size": a.vocab,
    }
    if a.window:
        meta[f"{p}.attention.sliding_window"] = a.window
    if a.experts:
        meta[f"{p}.expert_count"] = a.experts
        meta[f"{p}.expert_used_count"] = a.used
        meta[f"{p}.expert_feed_forward_length"] = a.expert_ff
    meta |= tokenizer(a.vocab, merges=merges) if words else {"tokenizer.ggml.model": "no_vocab"}

    def kind(name: str, shape: tuple[int, ...]) -> str:
        if len(shape) == 1 or "ffn_gate_inp" in name:
            return "f32"
        return types if isinstance(types, str) else types[name]

    return write_gguf(path, meta, [(n, s, kind(n, s)) for n, s in shapes(a)], sparse=sparse, filled=filled)


def host(
    *, isa: tuple[str, ...] = ("avx", "avx2", "fma", "f16c"), cores: float = 2.0, bandwidth: int | None = None
) -> Host:
    """A Linux host with 32 GiB."""
    return Host(
        os="linux",
        arch="x86_64",
        cpu=Cpu(
            name="test", isa=isa, cores_physical=int(cores) or 1, cores_logical=int(cores) or 1, cores_granted=cores
        ),
        memory=HostMemory(total_bytes=1 << 35, limit_bytes=None, available_bytes=1 << 35),
        bandwidth=exact(bandwidth, "bytes/s", "given") if bandwidth else None,
    )


def gpu(
    key: str = "gpu0",
    *,
    name: str = "NVIDIA GeForce RTX 4090",
    vendor: Any = "nvidia",
    memory: int = 24 << 30,
    bandwidth: int | None = 1_008_000_000_000,
    tflops: float | None = 165.2,
) -> Device:
    """One accelerator, an RTX 4090 unless told otherwise."""
    rate: Quantity | None = exact(bandwidth, "bytes/s", "given") if bandwidth else None
    return Device(
        id=key,
        vendor=vendor,
        name=name,
        profile=None,
        memory=DeviceMemory(total_bytes=memory, usable_bytes=memory, free_bytes=None),
        bandwidth=rate,
        compute_capability=8.9,
        formats={},
        unified_memory=False,
        link=None,
        unusable=None,
        fp16_tflops=tflops,
    )


def machine(*devices: Device, **host_options: Any) -> Machine:
    """A host with those devices."""
    return Machine(host=host(**host_options), devices=devices, runtimes=(), provenance=())
