"""Facts of a GGUF model from its own header, or headers where it is split into parts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.text import clean
from advisor.model import gguf_layers
from advisor.model.families import ARCHITECTURES
from advisor.model.fields import MAX_CONTEXT, MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from advisor.model.gguf import GgufHeader, Skipped, read_header
from advisor.model.names import size_mismatch
from advisor.model.tensors import count, is_table, spec

CODE: Final = "untrusted-model-header"
MAX_PARTS: Final = 1_000
_PART: Final = re.compile(r"^(?P<stem>.+)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)
_EXAONE_WINDOWED: Final = 64  # layers of the one EXAONE 4.0 that llama.cpp gives windows
# general.file_type, as llama.cpp numbers them.
FILE_TYPES: Final = {
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    7: "q8_0",
    8: "q5_0",
    9: "q5_1",
    10: "q2_k",
    11: "q3_k_s",
    12: "q3_k_m",
    13: "q3_k_l",
    14: "q4_k_s",
    15: "q4_k_m",
    16: "q5_k_s",
    17: "q5_k_m",
    18: "q6_k",
    19: "iq2_xxs",
    20: "iq2_xs",
    21: "q2_k_s",
    22: "iq3_xs",
    23: "iq3_xxs",
    24: "iq1_s",
    25: "iq4_nl",
    26: "iq3_s",
    27: "iq3_m",
    28: "iq2_s",
    29: "iq2_m",
    30: "iq4_xs",
    31: "iq1_m",
    32: "bf16",
    36: "tq1_0",
    37: "tq2_0",
    38: "mxfp4",
    39: "nvfp4",
    40: "q1_0",
    41: "q2_0",
}


class Loaded(NamedTuple):
    """A GGUF model: the first part's header, the tensors of all parts, and the parts."""

    header: GgufHeader
    tensors: tuple[TensorSpec, ...]
    type_bytes: dict[str, int]
    parts: tuple[Path, ...]
    headers: tuple[GgufHeader, ...]


def part_names(path: Path) -> tuple[Path, ...]:
    """All parts that the name of one part stands for; the file itself where its name is not a part's.

    Raises:
        AdvisorError: ``untrusted-model-header`` where the name counts more than 1,000 parts or none.
    """
    found = _PART.match(path.name)
    if not found:
        return (path,)
    n, no = int(found["count"]), int(found["no"])
    if not 1 <= no <= n <= MAX_PARTS:
        raise AdvisorError(
            CODE, f"{clean(path.name)} names part {no} of {n}; parts count from 1 to at most {MAX_PARTS}."
        )
    return tuple(path.with_name(f"{found['stem']}-{i:05d}-of-{n:05d}.gguf") for i in range(1, n + 1))


def load(path: Path, *, sizes: Mapping[str, int] | None = None) -> Loaded:
    """Read the headers of a GGUF model; any part of a split model stands for the whole.

    ``sizes``: bytes of whole files by name, where only their beginnings are here.

    Raises:
        AdvisorError: ``untrusted-model-header``, ``missing-part`` naming the part, ``file-not-found``,
            ``file-unreadable``.
    """
    if not path.exists() and not _PART.match(path.name):
        raise AdvisorError("file-not-found", f"There is no file {clean(str(path))}.")
    files = part_names(path)
    missing = [f.name for f in files if not f.exists()]
    if missing:
        raise AdvisorError(
            "missing-part",
            f"The model {clean(path.name)} has {len(files)} parts, and {len(missing)} of them "
            f"{'is' if len(missing) == 1 else 'are'} missing: {clean(', '.join(missing))}.",
            data={"missing": [clean(m) for m in missing[:20]]},
        )
    headers = [read_header(f, size=sizes.get(f.name) if sizes is not None else None) for f in files]
    _check_split(files, headers)
    tensors: list[TensorSpec] = []
    by_type: Counter[str] = Counter()
    seen: set[str] = set()
    for file, header in zip(files, headers, strict=True):
        for t in header.tensors:
            if t.name in seen:
                raise AdvisorError(CODE, f'{clean(file.name)}: the tensor "{clean(t.name, 80)}" is in two parts.')
            seen.add(t.name)
            by_type[t.type] += t.nbytes
            tensors.append(spec(t.name, t.shape, t.type))
    return Loaded(headers[0], tuple(tensors), dict(by_type), files, tuple(headers))


def _check_split(files: tuple[Path, ...], headers: list[GgufHeader]) -> None:
    for i, (file, header) in enumerate(zip(files, headers, strict=True)):
        n = header.integer("split.count") or (len(files) if len(files) > 1 else 1)
        if n != len(files):
            raise AdvisorError(
                "missing-part",
                f"{clean(file.name)} says that the model has {n} parts, but its name stands for {len(files)}; "
                f"parts are named like NAME-00001-of-{n:05d}.gguf.",
                data={"parts": n},
            )
        no = header.integer("split.no")
        if no is not None and no != i:
            raise AdvisorError(CODE, f"{clean(file.name)} says that it is part {no + 1}, but its name says {i + 1}.")
    expected = headers[0].integer("split.tensors.count")
    held = sum(len(h.tensors) for h in headers)
    if expected is not None and len(files) > 1 and expected != held:
        raise AdvisorError(
            "missing-part", f"{clean(files[0].name)} announces {expected} tensors, but the parts hold {held}."
        )


def _refuse_other_kinds(name: str, header: GgufHeader, arch: str) -> None:
    kind = header.text("general.type")
    if kind == "adapter":
        base = header.text("general.base_model.0.name") or "its base model"
        raise AdvisorError("missing-part", f"{name} is an adapter (LoRA), not a model: {base} is missing.")
    if kind == "mmproj" or arch == "clip":
        raise AdvisorError(
            "missing-part", f"{name} is the part for images or sound; the language model's own file is missing."
        )
    if kind == "imatrix":
        raise AdvisorError("missing-part", f"{name} is an importance matrix; the model that it belongs to is missing.")


class _Meta:
    """Checked numbers under ``ARCH.``; arrays that differ by layer are reported."""

    def __init__(self, name: str, header: GgufHeader, arch: str) -> None:
        self.name = name
        self.header = header
        self.arch = arch
        self.differs: list[str] = []

    def whole(self, key: str, high: int, low: int = 0) -> int | None:
        value = self.header.metadata.get(f"{self.arch}.{key}")
        if isinstance(value, tuple) and value and all(isinstance(v, int) for v in value):
            # 0 marks layers without attention or without a dense network; the largest is what planning must hold.
            if len({v for v in value if v}) > 1 or (0 in value and any(value)):
                self.differs.append(key)
            value = max(value)
        if value is None or isinstance(value, Skipped):
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            shown = clean(str(value), 40)
            raise AdvisorError(
                CODE,
                f"{self.name}: {self.arch}.{key} is {shown}, but must be a whole number from {low} to {high}.",
                data={"field": f"{self.arch}.{key}", "value": shown},
            )
        return value

    def need(self, key: str, high: int) -> int:
        value = self.whole(key, high, low=1)
        if value is None:
            raise AdvisorError(CODE, f"{self.name} lacks {self.arch}.{key}.", data={"field": f"{self.arch}.{key}"})
        return value


def _window(meta: _Meta, arch: str, layers: int) -> tuple[int | None, int | None]:
    if arch not in gguf_layers.PATTERNS or (arch == "exaone4" and layers != _EXAONE_WINDOWED):
        return None, None
    window = meta.whole("attention.sliding_window", MAX_CONTEXT)
    if arch == "llama4" and window != 0:
        window = None  # of its own length, whatever the file says
    window = window or (gguf_layers.WINDOWS.get(arch) if window is None else None)
    return (window, gguf_layers.pattern(meta.header.metadata, arch)) if window else (None, None)


def facts(
    path: Path, *, ref: str, kind: Any = "gguf", sizes: Mapping[str, int] | None = None, **extra: Any
) -> ModelFacts:
    """Architecture facts and exact sizes of a GGUF model; the header wins over every name.

    Args:
        path: the file, or any part of a split model.
        ref: the reference it was found by.
        kind: a ``ModelKind``.
        sizes: bytes of whole files by name, where only their beginnings are here.
        extra: further ``ModelFacts`` fields that replace what the header says.

    Raises:
        AdvisorError: as ``load``; ``untrusted-model-header`` also for metadata out of range or missing,
            ``missing-part`` for adapters, image parts and importance matrices.
    """
    loaded = load(path, sizes=sizes)
    header, name = loaded.header, clean(path.name)
    arch = header.text("general.architecture")
    if not arch:
        raise AdvisorError(CODE, f"{name} lacks general.architecture.", data={"field": "general.architecture"})
    _refuse_other_kinds(name, header, arch)
    if not loaded.tensors:
        raise AdvisorError("missing-part", f"{name} holds no tensors: it is a vocabulary or a header only.")
    meta = _Meta(name, header, arch)
    by_name = {t.name: t for t in loaded.tensors}
    blocks = meta.need("block_count", MAX_LAYERS)
    ahead = meta.whole("nextn_predict_layers", MAX_LAYERS) or 0
    layers = blocks - ahead if ahead < blocks else blocks
    hidden = meta.need("embedding_length", MAX_WIDTH)
    heads = meta.whole("attention.head_count", MAX_HEADS) or 0
    kv_heads = meta.whole("attention.head_count_kv", MAX_HEADS)
    head_dim = meta.whole("attention.key_length", MAX_WIDTH) or (hidden // heads if heads else 0)
    experts = meta.whole("expert_count", MAX_EXPERTS) or 0
    used = meta.whole("expert_used_count", MAX_EXPERTS) or 0
    intermediate = meta.whole("feed_forward_length", MAX_WIDTH) or 0
    window, pattern = _window(meta, arch, layers)
    embedding = by_name.get("token_embd.weight")
    vocab = header.length("tokenizer.ggml.tokens") or meta.whole("vocab_size", MAX_VOCAB) or 0
    if embedding is not None and len(embedding.shape) == 2:
        vocab = embedding.shape[0]
    out_of_range = [t.name for t in loaded.tensors if t.layer is not None and t.layer >= blocks]
    if out_of_range:
        raise AdvisorError(CODE, f'{name} has {blocks} layers, but a tensor "{clean(out_of_range[0], 80)}".')
    params, active = count(loaded.tensors, experts, used, layers)
    notes = []
    if arch not in ARCHITECTURES:
        notes.append(f"low confidence: unknown architecture {clean(arch, 40)}; sizes of tensors are exact")
    if meta.differs and ARCHITECTURES.get(arch, "decoder") == "decoder":
        notes.append(f"low confidence: {', '.join(meta.differs)} differ by layer; the largest is taken")
    shown = clean(header.text("general.name") or path.stem, 120)
    if note := size_mismatch((shown, path.name), params):
        notes.append(note)
    rope = next((t.elements for t in loaded.tensors if is_table(t)), 0)
    built = ModelFacts(
        name=shown,
        ref=clean(ref),
        kind=kind,
        path=str(loaded.parts[0].absolute()),
        architecture=arch,
        model_type=arch,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads if kv_heads is not None else heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocab=vocab,
        context_max=meta.whole("context_length", MAX_CONTEXT) or None,
        tie_embeddings="output.weight" not in by_name,
        attention_bias="blk.0.attn_q.bias" in by_name or "blk.0.attn_qkv.bias" in by_name,
        qk_norm="blk.0.attn_q_norm.weight" in by_name,
        mlp_bias="blk.0.ffn_up.bias" in by_name,
        rope_factors=rope,
        experts=experts,
        experts_used=used,
        expert_intermediate=(meta.whole("expert_feed_forward_length", MAX_WIDTH) or intermediate) if experts else 0,
        shared_expert_intermediate=_shared_width(loaded.tensors),
        dense_layers=_dense_layers(loaded.tensors) if experts else 0,
        sliding_window=window,
        sliding_pattern=pattern,
        layer_kinds=gguf_layers.kinds(header.metadata, arch, layers, loaded.tensors, (window, pattern)),
        widths=gguf_layers.widths(header.metadata, arch),
        params=params,
        active_params=active,
        weights_format="gguf",
        weights_dtype=file_type(header, loaded.type_bytes) or dominant(loaded.type_bytes),
        weights_bytes=sum(h.file_bytes for h in loaded.headers),
        source_types=dict(sorted(loaded.type_bytes.items())),
        chat_template="tokenizer.chat_template" in header.metadata,
        license=header.text("general.license"),
        confidence="low" if any(n.startswith("low") for n in notes) else "exact",
        source=f"header of {name}",
        notes=tuple(notes),
    )
    return msgspec.structs.replace(built, **extra)


def file_type(header: GgufHeader, type_bytes: dict[str, int]) -> str | None:
    """The file type that the header names (``general.file_type``), unless the stored types contradict it.

    A mix such as Q4_K_M is a file type and no tensor type, and where rows do not divide into its blocks hardly a
    tensor may have the type of its name.
    """
    named = FILE_TYPES.get(header.integer("general.file_type") or -1)
    floats = set(type_bytes) <= {"f32", "f16", "bf16"}
    return named if named is not None and floats == (named in ("f16", "bf16")) else None


def dominant(type_bytes: dict[str, int]) -> str | None:
    """The type that holds most bytes, or ``mixed`` where no type holds half of them."""
    if not type_bytes:
        return None
    kind, most = max(sorted(type_bytes.items()), key=lambda item: item[1])
    return kind if most * 2 >= sum(type_bytes.values()) else "mixed"


def _shared_width(tensors: tuple[TensorSpec, ...]) -> int:
    return next((t.shape[0] for t in tensors if t.name.endswith(".ffn_up_shexp.weight") and len(t.shape) == 2), 0)


def _dense_layers(tensors: tuple[TensorSpec, ...]) -> int:
    routed = [t.layer for t in tensors if t.role == "ffn_gate_inp" and t.layer is not None]
    return min(routed, default=0)
