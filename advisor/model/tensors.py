"""The tensors of a model under their GGUF names, with exact shapes for the architectures listed here.

Shapes follow what llama.cpp's converter writes and its loader expects (``advisor.model.families``). A model read from a
GGUF file has the tensors of its own header instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts, TensorRole, TensorSpec
from advisor.facts.text import clean
from advisor.model import families

# Tables that converters add; they are loaded but are not weights of the model.
_TABLES: Final = re.compile(r"(?:^|\.)(?:rope_freqs|rope_factors_(?:long|short))\.")
_EXPERTS: Final = re.compile(r"_exps\.|\.ffn_(?:gate|up|down)\.\d+\.")
_LAYER: Final = re.compile(r"^blk\.(\d{1,6})\.(.+)$")
_ROLES: Final[dict[str, TensorRole]] = {
    "token_embd": "token_embd",
    "output": "output",
    "attn_q": "attn_q",
    "attn_k": "attn_k",
    "attn_v": "attn_v",
    "attn_qkv": "attn_qkv",
    "attn_output": "attn_output",
    "ffn_gate": "ffn_gate",
    "ffn_up": "ffn_up",
    "ffn_down": "ffn_down",
    "ffn_gate_shexp": "ffn_gate",
    "ffn_up_shexp": "ffn_up",
    "ffn_down_shexp": "ffn_down",
    "ffn_gate_up_exps": "ffn_up_exps",
    "ffn_gate_exps": "ffn_gate_exps",
    "ffn_up_exps": "ffn_up_exps",
    "ffn_down_exps": "ffn_down_exps",
    "ffn_gate_inp": "ffn_gate_inp",
    "ffn_gate_inp_shexp": "ffn_gate_inp",
}


def role_of(name: str) -> tuple[TensorRole, int | None]:
    """The role and the layer of a tensor by its GGUF name; shared experts have the roles of a dense network."""
    layer: int | None = None
    rest = name
    if found := _LAYER.match(name):
        layer, rest = int(found[1]), found[2]
    base, _, last = rest.rpartition(".")
    if last == "bias":
        return "bias", layer
    if base.endswith("norm"):
        return "norm", layer
    if old := re.fullmatch(r"ffn_(gate|up|down)\.\d+", base):  # one tensor an expert, as early files have it
        return _ROLES[f"ffn_{old[1]}_exps"], layer
    return (_ROLES.get(base, "other") if last == "weight" else "other"), layer


def spec(name: str, shape: tuple[int, ...], gguf_type: str | None = None) -> TensorSpec:
    """A tensor of that name and shape, its role and layer read from the name."""
    role, layer = role_of(name)
    return TensorSpec(name=name, shape=shape, role=role, layer=layer, gguf_type=gguf_type)


def is_table(tensor: TensorSpec) -> bool:
    """Whether the tensor is a table that converters add, not weights of the model."""
    return _TABLES.search(tensor.name) is not None


def count(tensors: Iterable[TensorSpec], experts: int, used: int, layers: int | None = None) -> tuple[int, int]:
    """Number of weights in all, and of those that take part in one token (embeddings included).

    Layers from ``layers`` on, which only predict further tokens, do not count: published sizes leave them out too.
    """
    total = routed = 0
    for t in tensors:
        if is_table(t) or (layers is not None and t.layer is not None and t.layer >= layers):
            continue
        total += t.elements
        if _EXPERTS.search(t.name):
            routed += t.elements
    idle = routed * (experts - used) // experts if experts > used > 0 else 0
    return total, total - idle


def computed(m: ModelFacts) -> tuple[TensorSpec, ...]:
    """The tensors as they follow from the architecture; of an unknown one, those of a gated network like llama's.

    Raises:
        AdvisorError: ``untrusted-model-config``: facts from a file that lack what the architecture is built from.
    """
    family = families.of_architecture(m.architecture)
    parts: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (m.vocab, m.hidden))]
    try:
        for layer in range(m.blocks):
            parts += family.blocks(m, layer)
    except (KeyError, IndexError, ZeroDivisionError) as e:
        raise AdvisorError(
            "untrusted-model-config",
            f"The facts of {clean(m.name, 120)} lack sizes that the architecture {clean(m.architecture, 40)} is built "
            f"from ({clean(str(e), 60)}).",
            data={"field": "widths"},
        ) from e
    parts.append((f"{family.last_norm}.weight", (m.hidden,)))
    parts += family.outside(m)
    if not m.tie_embeddings:
        parts.append(("output.weight", (m.vocab, m.hidden)))
    return tuple(spec(name, shape) for name, shape in parts)


def tensors(model: ModelFacts) -> tuple[TensorSpec, ...]:
    """All tensors of ``model``: from the GGUF header where its file is at hand, otherwise computed.

    Raises:
        AdvisorError: the file is there but its header cannot be used, or a part of a split file is missing.
    """
    if model.weights_format == "gguf" and model.path and model.path.endswith(".gguf") and Path(model.path).is_file():
        from advisor.model.gguf_facts import load

        return load(Path(model.path)).tensors
    return computed(model)
