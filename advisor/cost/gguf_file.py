"""Size of a GGUF file and what its tensors weigh, by place: the basis of download, disk, memory and speed."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Final, NamedTuple

from advisor.cost.gguf_mix import EVERY, SMALLER_BLOCKS, Assigned, assign
from advisor.cost.gguf_types import ALIGNMENT, pad, tensor_bytes
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.quantity import Quantity, exact

# Bytes of a header a vocabulary entry: text with its length (8 + about 7), type (4), score (4) or merge (8 + about 9).
# Qwen2.5 writes 39, SmolLM2 36.
_VOCAB_ENTRY: Final = (38, 18, 66)
# Vocabularies that are known by their size: Llama-3's has two merges a token (61 measured), Llama-2's, Mistral's and
# Gemma's have scores and no merges (Gemma-2: 23.5).
_KNOWN_ENTRIES: Final[dict[int, tuple[int, int, int]]] = {
    128_256: (61, 55, 66),
    **dict.fromkeys((32_000, 32_064, 32_768, 256_000, 256_128, 262_144, 262_208), (24, 18, 30)),
}
_METADATA: Final = 4096
# Converters of other years keep routers and norms in other plain types (Mixtral-8x22B of 2024: .02 % less).
_OTHER_BUILDS: Final = 3e-4
OUTPUT: Final = -1  # place of the output matrix and its norm
EMBEDDING: Final = -2  # place of the token embedding


class Part(NamedTuple):
    """One tensor as it is loaded: its place (layer, or OUTPUT or EMBEDDING), type, rows and bytes."""

    place: int
    type: str
    rows: int
    bytes: int
    matrix: bool
    expert: bool
    dims: int
    name: str


class WeightMap(NamedTuple):
    """Tensors of one file type, by place.

    ``layers`` and ``experts`` are bytes a layer (experts are part of layers), ``read`` bytes of weights that one token
    reads, ``file`` bytes of the whole file. ``tied``: the output matrix is the token embedding.
    """

    assigned: tuple[Assigned, ...]
    parts: tuple[Part, ...]
    layers: tuple[int, ...]
    experts: tuple[int, ...]
    embedding: int
    output: int
    tied: bool
    not_loaded: int
    read: int
    read_layers: tuple[int, ...]
    file: Quantity

    @property
    def loaded(self) -> int:
        """Bytes of all tensors that the server loads, as stored."""
        return sum(self.layers) + self.embedding + self.output


_CACHE: Final[dict[tuple[object, ...], tuple[object, WeightMap]]] = {}
_CACHE_SIZE: Final = 512
_LOCK: Final = Lock()


def stored_types(model: ModelFacts, tensors: Sequence[TensorSpec], fmt: str) -> bool:
    """Whether ``fmt`` names what the model's own GGUF file already holds, so that nothing is quantized.

    The largest share of a file's bytes has the file type's own type, or what that falls back to.
    """
    if model.weights_format != "gguf" or fmt not in EVERY or any(t.gguf_type is None for t in tensors):
        return False
    share: dict[str, int] = {}
    for t in tensors:
        kind = t.gguf_type or "f32"
        share[kind] = share.get(kind, 0) + tensor_bytes(t, kind)
    main = max(share, key=lambda k: share[k])
    return main in (EVERY[fmt], SMALLER_BLOCKS.get(EVERY[fmt]))


def weight_map(
    model: ModelFacts, tensors: tuple[TensorSpec, ...], fmt: str, *, imatrix: bool, as_is: bool | None = None
) -> WeightMap:
    """Lay out the tensors of ``model`` in a file of type ``fmt``; kept in memory from call to call.

    Args:
        model: what the tensors belong to.
        tensors: the same tuple from call to call, so that the result is found again.
        fmt: file type.
        imatrix: an importance matrix will be used.
        as_is: take the types that the source file holds; ``None`` decides by ``stored_types``.

    Raises:
        AdvisorError: ``bad-option`` for an unknown file type.
    """
    key = (id(tensors), model.architecture, model.gqa, model.experts, model.layers, model.ref, fmt, imatrix, as_is)
    found = _CACHE.get(key)
    if found is not None and found[0] is tensors:
        return found[1]
    stored = stored_types(model, tensors, fmt) if as_is is None else as_is
    if stored and all(t.gguf_type for t in tensors):
        assigned = tuple(Assigned(t, t.gguf_type or "f32", t.gguf_type or "f32", False) for t in tensors)
    else:
        stored = False
        assigned = assign(model, tensors, fmt, imatrix=imatrix)
    built = _build(model, assigned, stored)
    with _LOCK:  # threads plan side by side, and two of them must not throw out the same entry
        while len(_CACHE) >= _CACHE_SIZE:
            _CACHE.pop(next(iter(_CACHE)))
        _CACHE[key] = (tensors, built)
    return built


def speculative_layers(tensors: Sequence[TensorSpec]) -> frozenset[int]:
    """Blocks for multi-token prediction: in the file, but neither loaded nor cached unless speculation is on."""
    return frozenset(t.layer for t in tensors if t.layer is not None and ".nextn." in t.name)


def _build(model: ModelFacts, assigned: tuple[Assigned, ...], stored: bool) -> WeightMap:
    extra = speculative_layers([a.tensor for a in assigned])
    count = max([model.layers - 1, *(a.tensor.layer for a in assigned if a.tensor.layer is not None)]) + 1
    layers, experts, read_layers = [0] * count, [0] * count, [0] * count
    embedding = output = not_loaded = on_disk = 0
    tied = all(a.tensor.name != "output.weight" for a in assigned)
    read_outside = 0
    parts: list[Part] = []
    for a in assigned:
        t = a.tensor
        size = tensor_bytes(t, a.type)
        on_disk += pad(size, ALIGNMENT)
        if t.layer is not None and t.layer in extra:
            not_loaded += size
            continue
        expert = "_exps." in t.name
        is_embedding = t.name.startswith(("token_embd.weight", "per_layer_token_embd"))
        place = t.layer if t.layer is not None else (EMBEDDING if is_embedding else OUTPUT)
        dims = len([d for d in t.shape[:-1] if d > 1]) + 1
        rows = t.shape[-2] if len(t.shape) > 1 else 1
        matrix = dims > 1 and t.role not in ("norm", "bias") and "conv" not in t.name
        parts.append(Part(place, a.type, rows, size, matrix, expert, dims, t.name))
        if place >= 0:
            layers[place] += size
            experts[place] += size if expert else 0
            used = size * model.experts_used // model.experts if expert and model.experts else size
            read_layers[place] += used
        elif place == EMBEDDING:
            embedding += size
        else:
            output += size
            read_outside += size
    if tied:
        read_outside += sum(p.bytes for p in parts if p.name == "token_embd.weight")
    return WeightMap(
        assigned=assigned,
        parts=tuple(parts),
        layers=tuple(layers),
        experts=tuple(experts),
        embedding=embedding,
        output=output,
        tied=tied,
        not_loaded=not_loaded,
        read=read_outside + sum(read_layers),
        read_layers=tuple(read_layers),
        file=_file(model, assigned, on_disk, stored),
    )


def _file(model: ModelFacts, assigned: tuple[Assigned, ...], on_disk: int, stored: bool) -> Quantity:
    if stored and model.weights_bytes:
        return exact(model.weights_bytes, "bytes", "size of the file on disk")
    table = sum(len(a.tensor.name.encode()) + 8 + 4 + 8 * len(a.tensor.shape) + 4 + 8 for a in assigned)
    value, low, high = (n * model.vocab for n in _KNOWN_ENTRIES.get(model.vocab, _VOCAB_ENTRY))
    fixed = on_disk + table + _METADATA
    return Quantity(
        value=fixed + value,
        low=int(fixed * (1 - _OTHER_BUILDS)) + low,
        high=int(fixed * (1 + _OTHER_BUILDS)) + high,
        unit="bytes",
        method="formula",
        source="tensor types and shapes with 32 byte alignment; the tokenizer by vocabulary size",
    )


def file_bytes(
    model: ModelFacts, tensors: tuple[TensorSpec, ...], fmt: str, *, imatrix: bool = False, as_is: bool | None = None
) -> Quantity:
    """Size of the GGUF file: tensors exactly, the header by the size of the vocabulary.

    Raises:
        AdvisorError: ``bad-option`` for an unknown file type.
    """
    return weight_map(model, tensors, fmt, imatrix=imatrix, as_is=as_is).file
