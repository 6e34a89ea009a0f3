"""A model in a local folder: config.json, safetensors or GGUF weights, chat template, licence. Nothing in it is run."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.text import clean
from advisor.model import gguf_facts
from advisor.model.architectures import from_config
from advisor.model.gguf import open_regular
from advisor.model.jsonfile import parse, read_bounded, read_object
from advisor.model.names import human, size_mismatch
from advisor.model.paths import check_names, inside, snapshot_revision
from advisor.model.safetensors import DTYPE_BITS, SafeTensor, read_header

PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MAX_ENTRIES: Final = 100_000
MAX_INDEX_BYTES: Final = 64 << 20
MAX_CARD_BYTES: Final = 16 << 10
SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
# Parts of multimodal models that the language model does without.
_OTHER_PARTS: Final = re.compile(
    r"^(?:model\.)?(?:vision|visual|audio|multi_modal_projector|mm_|embed_vision|embed_audio|connector\.|aligner\.)"
)
# Layers that only predict further tokens: by their own name, or past the last layer with parts of their own.
_AHEAD: Final = re.compile(r"(?:^|\.)mtp(?:_|\.)")
_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d{1,6})\.")
_AHEAD_PART: Final = re.compile(r"(?:^|\.)layers\.(\d{1,6})\.(?:eh_proj|enorm|hnorm|shared_head)\b")
_PACKED: Final = re.compile(r"(?:qweight|qzeros|scales|g_idx|weight_packed|weight_scale|_blocks|_scales|absmax|quant_)")
_CLOSE: Final = 0.005


class Weights(NamedTuple):
    """What the safetensors headers say: bytes on disk, tensors of the language model, the type of most of them.

    ``others``: elements of the parts for images and sound.
    """

    file_bytes: int
    tensors: dict[str, SafeTensor]
    dtype: str | None
    packed: bool
    others: int = 0


def _listing(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = []
            for entry in entries:
                if entry.name.isprintable():
                    names.append(entry.name)
                if len(names) > MAX_ENTRIES:
                    raise AdvisorError(
                        "untrusted-model-path", f"{clean(str(folder))} has more than {MAX_ENTRIES} entries."
                    )
    except OSError as e:
        raise AdvisorError("file-unreadable", f"{clean(str(folder))} cannot be listed: {clean(str(e))}.") from e
    return sorted(names)


def _refuse_code(folder: Path, names: list[str], config: dict[str, Any]) -> None:
    """Refuse a model whose configuration points at code of its own; it would run with the user's rights."""
    wanting = [config]
    tokenizer = _tokenizer_config(folder, names)[0]
    if tokenizer:
        wanting.append(tokenizer)
    maps = [w["auto_map"] for w in wanting if w.get("auto_map")]
    if not maps:
        return
    files = [n for n in names if n.endswith(".py")]
    classes = sorted({clean(str(v), 60) for m in maps if isinstance(m, dict) for v in m.values()})
    listed = clean(", ".join(files), 400) if files else "no .py file is in the folder"
    raise AdvisorError(
        "remote-code-refused",
        f"The model in {clean(str(folder))} wants to run code of its own ({clean(', '.join(classes), 200)}); "
        f"files: {listed}.",
        context=("a copy of the folder without the auto_map entries is planned for without that code",),
        hint=f"grep -rn auto_map {shlex.quote(clean(str(folder), 400))}",
        data={"files": [clean(n) for n in files[:100]]},
    )


def _tokenizer_config(folder: Path, names: list[str]) -> tuple[dict[str, Any] | None, str | None]:
    if "tokenizer_config.json" not in names:
        return None, None
    try:
        return read_object(inside(folder, "tokenizer_config.json")), None
    except AdvisorError as e:
        if e.code != "untrusted-model-config":
            raise
        return None, f"tokenizer_config.json was left out: {e.message}"


def _chat_template(folder: Path, names: list[str]) -> tuple[bool | None, str | None]:
    """Whether there is a chat template; it is never rendered."""
    if "chat_template.jinja" in names or "chat_template.json" in names:
        return True, None
    found, note = _tokenizer_config(folder, names)
    if note:
        return None, note
    if found is None:
        return None, None
    return bool(found.get("chat_template")), None


def _license(folder: Path, names: list[str]) -> str | None:
    """The ``license`` of the front matter of README.md."""
    if "README.md" not in names:
        return None
    try:
        file, _ = open_regular(inside(folder, "README.md"))
    except AdvisorError as e:
        if e.code == "untrusted-model-path":
            raise
        return None
    with file:
        head = file.read(MAX_CARD_BYTES).decode("utf-8", "replace")
    if not head.startswith("---"):
        return None
    matter = head[3:].split("\n---", 1)[0]
    found = re.search(r"^license:[ \t]*([^\s#][^\n#]*?)[ \t]*(?:#.*)?$", matter, re.MULTILINE)
    return clean(found[1].strip().strip("'\""), 60) if found else None


def index_map(folder: Path) -> dict[str, str]:
    """Which tensor the index of a checkpoint in shards says is in which file.

    Raises:
        AdvisorError: ``untrusted-model-config`` for an index that cannot be used.
    """
    code = "untrusted-model-config"
    raw = read_bounded(inside(folder, INDEX), MAX_INDEX_BYTES, code)
    index = parse(raw, code=code, what=INDEX, max_depth=8)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise AdvisorError(code, f"{INDEX}: weight_map is not an object of file names.")
    return dict(weight_map)


def shards(folder: Path, names: list[str]) -> tuple[tuple[Path, ...], dict[str, str]]:
    """The safetensors files of a folder, and which tensor the index says is in which.

    Raises:
        AdvisorError: ``untrusted-model-path`` for listed names that lead elsewhere, ``missing-part`` for shards that
            are listed but absent, ``untrusted-model-config`` for an index that cannot be used.
    """
    if INDEX in names:
        weight_map = index_map(folder)
        files = check_names(weight_map.values())
        paths = [inside(folder, f) for f in files]
        missing = [f for f, p in zip(files, paths, strict=True) if not p.exists()]
        if missing:
            raise AdvisorError(
                "missing-part",
                f"{INDEX} lists {len(files)} files, and {len(missing)} of them "
                f"{'is' if len(missing) == 1 else 'are'} missing: {clean(', '.join(missing))}.",
                data={"missing": [clean(m) for m in missing[:20]]},
            )
        return tuple(paths), weight_map
    single = [n for n in names if n.endswith(".safetensors") and "adapter" not in n]
    if SINGLE in single:
        return (inside(folder, SINGLE),), {}
    parts = [n for n in single if re.search(r"-\d{5}-of-\d{5}\.safetensors$", n)]
    if parts:
        raise AdvisorError("missing-part", f"The folder has shards ({clean(parts[0])} ...), but {INDEX} is missing.")
    return tuple(inside(folder, n) for n in check_names(single)), {}


def read_weights(
    files: tuple[Path, ...], weight_map: dict[str, str], sizes: Mapping[str, int] | None = None
) -> Weights:
    """Headers of all safetensors files together; ``sizes`` as in ``facts``.

    Raises:
        AdvisorError: ``untrusted-model-header``; ``missing-part`` where the index lists a tensor that a shard lacks.
    """
    tensors: dict[str, SafeTensor] = {}
    by_dtype: Counter[str] = Counter()
    total = 0
    for path in files:
        header = read_header(path, size=sizes.get(path.name) if sizes is not None else None)
        total += header.file_bytes
        for name, t in header.tensors.items():
            if name in tensors:
                raise AdvisorError(
                    "untrusted-model-header", f'The tensor "{clean(name, 80)}" is in two files, {clean(path.name)} too.'
                )
            tensors[name] = t
            by_dtype[t.dtype] += t.elements * DTYPE_BITS[t.dtype]
    lacking = next((n for n in weight_map if n not in tensors), None)
    if lacking is not None:
        raise AdvisorError("missing-part", f'{INDEX} lists the tensor "{clean(lacking, 80)}", which no shard holds.')
    packed = any(_PACKED.search(n.rsplit(".", 1)[-1]) for n in tensors)
    language = {n: t for n, t in tensors.items() if not _OTHER_PARTS.match(n)}
    dtype = max(sorted(by_dtype), key=by_dtype.__getitem__).lower() if by_dtype else None
    others = sum(t.elements for n, t in tensors.items() if n not in language)
    return Weights(total, language, dtype, packed, others)


def _predicting(names: Iterable[str]) -> frozenset[str]:
    """Numbers of the layers that only predict further tokens; published sizes leave those out."""
    return frozenset(found[1] for n in names if (found := _AHEAD_PART.search(n)))


def _ahead(name: str, predicting: frozenset[str]) -> bool:
    layer = _LAYER.search(name)
    return bool(_AHEAD.search(name)) or (layer is not None and layer[1] in predicting)


def _with_weights(facts: ModelFacts, weights: Weights) -> ModelFacts:
    """Hold the configuration against the headers; the headers win where the two disagree."""
    predicting = _predicting(weights.tensors)
    held = sum(
        t.elements
        for n, t in weights.tensors.items()
        if not (facts.tie_embeddings and n == "lm_head.weight") and not _ahead(n, predicting)
    )
    notes = list(facts.notes)
    changes: dict[str, Any] = {"weights_format": "safetensors", "weights_bytes": weights.file_bytes}
    quantized = weights.packed or any(n.startswith("already quantized") for n in notes)
    if quantized:
        if not any(n.startswith("already quantized") for n in notes):
            notes.append("already quantized: the tensors are packed")
    elif held:
        changes["weights_dtype"] = weights.dtype
        if weights.others:
            changes["vision_params"] = weights.others
        close = abs(facts.params - held) <= _CLOSE * held
        if not close and facts.confidence != "low":
            notes.append(
                f"mismatch: config.json speaks of {human(facts.params)} weights, the tensors sum to {human(held)}"
            )
            changes["confidence"] = "low"
        if not close:
            changes["active_params"] = max(1, facts.active_params * held // max(facts.params, 1))
            changes["params"] = held
        elif facts.confidence == "derived":
            changes["confidence"] = "exact"
    return msgspec.structs.replace(facts, notes=tuple(notes), **changes)


def _gguf_in(
    folder: Path, names: list[str], ref: str, kind: Any, sizes: Mapping[str, int] | None, extra: dict[str, Any]
) -> ModelFacts | None:
    files = [n for n in names if n.endswith(".gguf") and "mmproj" not in n.lower()]
    if not files:
        return None
    groups = {gguf_facts.part_names(folder / n)[0].name for n in files}
    if len(groups) > 1:
        first = folder / sorted(groups)[0]
        raise AdvisorError(
            "model-not-found",
            f"{clean(str(folder))} holds {len(groups)} GGUF models: {clean(', '.join(sorted(groups)), 400)}. Name one.",
            hint=f"advisor recommend {shlex.quote(clean(str(first), 400))}",
        )
    return gguf_facts.facts(inside(folder, files[0]), ref=ref, kind=kind, sizes=sizes, **extra)


def facts(
    folder: Path,
    *,
    ref: str,
    kind: Any = "folder",
    name: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> ModelFacts:
    """Facts of the model in ``folder``.

    config.json alone is enough for planning. Safetensors are preferred to pickles; a folder that has only pickles, or
    wants to run code, is refused.

    Args:
        folder: an existing folder.
        ref: the reference it was found by.
        kind: a ``ModelKind``.
        name: what to call it; otherwise the folder's own name.
        sizes: where ``folder`` holds only configuration and the beginnings of weight files: bytes of all files that
            there are elsewhere, by name.

    Raises:
        AdvisorError: ``model-not-found`` (nothing of a model in it), ``untrusted-model-config``,
            ``untrusted-model-header``, ``untrusted-model-path``, ``missing-part``, ``remote-code-refused``,
            ``pickle-refused``, ``file-unreadable``.
    """
    names = _listing(folder) if sizes is None else sorted(sizes)
    revision = snapshot_revision(folder)
    name = name or (
        folder.absolute().parent.parent.name.removeprefix("models--").replace("--", "/") if revision else ""
    )
    name = name or folder.resolve().name or "model"
    extra: dict[str, Any] = {"revision": revision}
    if "config.json" not in names:
        found = _gguf_in(folder, names, ref, kind, sizes, extra)
        if found is not None:
            return found
        pickles = [n for n in names if n.endswith(PICKLES)]
        if pickles and not any(n.endswith(".safetensors") for n in names):
            raise _pickle_error(folder, pickles)
        what = "an adapter without its base model" if "adapter_config.json" in names else "no config.json, no GGUF file"
        raise AdvisorError(
            "missing-part" if "adapter_config.json" in names else "model-not-found",
            f"{clean(str(folder))} holds no model: {what}.",
            hint="advisor models list",
        )
    config = read_object(inside(folder, "config.json"))
    _refuse_code(folder, names, config)
    template, template_note = _chat_template(folder, names)
    notes = [template_note] if template_note else []
    files, weight_map = shards(folder, names)
    pickles = [n for n in names if n.endswith(PICKLES) and n not in ("training_args.bin", "optimizer.pt")]
    if not files:
        found = _gguf_in(folder, names, ref, kind, sizes, extra)
        if found is not None:
            return found
        if pickles:
            raise _pickle_error(folder, pickles)
    if pickles:
        notes.append(f"pickles are left alone, the safetensors are used: {clean(', '.join(pickles))}")
    if code := [n for n in names if n.endswith(".py")]:
        notes.append(f"code in the folder is never run: {clean(', '.join(code))}")
    found = from_config(
        config,
        name=name,
        ref=ref,
        kind=kind,
        path=str(folder.absolute()),
        chat_template=template,
        license=_license(folder, names),
        source=f"config.json in {clean(str(folder))}",
        notes=notes,
        **extra,
    )
    if files:
        found = _with_weights(found, read_weights(files, weight_map, sizes))
    if note := size_mismatch((name,), found.params):
        found = msgspec.structs.replace(found, notes=(*found.notes, note))
    return found


def _pickle_error(folder: Path, pickles: list[str]) -> AdvisorError:
    return AdvisorError(
        "pickle-refused",
        f"The weights in {clean(str(folder))} are pickles ({clean(', '.join(pickles))}), which can run code when read.",
        context=("look for a revision of the model with safetensors, or convert it where nothing can be harmed",),
        hint="advisor models list",
        data={"files": [clean(p) for p in pickles[:100]]},
    )
