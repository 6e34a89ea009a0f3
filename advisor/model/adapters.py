"""Reads a LoRA adapter (a folder as peft writes it) without loading it, and holds it against the model it is for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from advisor.errors import AdvisorError
from advisor.facts.base import Shape
from advisor.facts.model import ModelFacts
from advisor.facts.text import clean
from advisor.model.jsonfile import read_object
from advisor.model.safetensors import read_header

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_MAX_RANK: Final = 4096
_PART: Final = re.compile(r"\.layers\.(\d+)\.(?:\w+\.)*(\w+)\.lora_([AB])(?:\.\w+)?\.weight$")


class Adapter(Shape, frozen=True, kw_only=True):
    """A LoRA adapter. ``targets``: the names of the matrices it changes; ``shapes``: (matrix, ``A`` or ``B``) as
    ``q_proj.A`` to the shape in the first layer; ``layers``: the highest layer it touches, counted from 1."""

    path: str
    base: str | None
    rank: int
    alpha: float | None
    targets: tuple[str, ...]
    layers: int
    shapes: dict[str, tuple[int, ...]]
    bytes: int


def read(path: Path) -> Adapter:
    """Facts of the adapter in the folder ``path``.

    Raises:
        AdvisorError: ``file-not-found``, ``missing-part``, ``pickle-refused``, ``untrusted-model-config``,
            ``untrusted-model-header``; ``bad-option`` for other kinds than LoRA.
    """
    if not (path / CONFIG).is_file():
        raise AdvisorError(
            "missing-part" if path.exists() else "file-not-found",
            f"{path} is no adapter: it has no {CONFIG}.",
            hint="advisor up MODEL --adapter FOLDER",
        )
    if not (path / WEIGHTS).is_file():
        pickled = next(iter(sorted(path.glob("*.bin"))), None)
        if pickled is not None:
            raise AdvisorError(
                "pickle-refused", f"{path} has its weights as a pickle ({pickled.name}), which can run code."
            )
        raise AdvisorError("missing-part", f"{path} has no {WEIGHTS}.")
    config = read_object(path / CONFIG)
    kind = str(config.get("peft_type", "")).upper()
    if kind != "LORA":
        raise AdvisorError("bad-option", f"{path} is a {clean(kind or 'nameless', 40)} adapter; only LoRA is merged.")
    rank = config.get("r")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 < rank <= _MAX_RANK:
        raise AdvisorError("untrusted-model-config", f"{CONFIG}: r is {clean(str(rank), 40)}, not 1 to {_MAX_RANK}.")
    header = read_header(path / WEIGHTS)
    shapes: dict[str, tuple[int, ...]] = {}
    last = 0
    for name, tensor in sorted(header.tensors.items()):
        found = _PART.search(name)
        if found is None:
            continue
        last = max(last, int(found[1]) + 1)
        shapes.setdefault(f"{found[2]}.{found[3]}", tensor.shape)
    if not shapes:
        raise AdvisorError("untrusted-model-header", f"{WEIGHTS} has no LoRA matrices of layers.")
    return Adapter(
        path=str(path),
        base=clean(str(config["base_model_name_or_path"]), 200) if config.get("base_model_name_or_path") else None,
        rank=rank,
        alpha=_number(config.get("lora_alpha")),
        targets=tuple(sorted({n.rpartition(".")[0] for n in shapes})),
        layers=last,
        shapes=shapes,
        bytes=header.file_bytes,
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def check(adapter: Adapter, model: ModelFacts) -> None:
    """Refuse an adapter whose matrices cannot be those of the model.

    Raises:
        AdvisorError: ``contradictory-options`` with the matrix and both widths.
    """
    if adapter.layers > model.layers:
        raise _other(adapter, model, f"it has layer {adapter.layers}, the model {model.layers}")
    inside = {
        "q_proj": model.hidden,
        "k_proj": model.hidden,
        "v_proj": model.hidden,
        "o_proj": model.heads * model.head_dim,
        "gate_proj": model.hidden,
        "up_proj": model.hidden,
    }
    outside = {
        "q_proj": model.heads * model.head_dim,
        "k_proj": model.kv_heads * model.head_dim,
        "v_proj": model.kv_heads * model.head_dim,
        "o_proj": model.hidden,
    }
    if not model.experts:
        inside["down_proj"] = outside["gate_proj"] = outside["up_proj"] = model.intermediate
        outside["down_proj"] = model.hidden
    for name, shape in adapter.shapes.items():
        matrix, _, side = name.rpartition(".")
        wanted = (inside if side == "A" else outside).get(matrix)
        have = shape[-1] if side == "A" else shape[0]
        if wanted is not None and shape and have != wanted:
            raise _other(adapter, model, f"its {matrix} has the width {have}, the model's {wanted}")


def _other(adapter: Adapter, model: ModelFacts, why: str) -> AdvisorError:
    made_for = f" It was trained on {adapter.base}." if adapter.base else ""
    return AdvisorError(
        "contradictory-options",
        f"The adapter {adapter.path} is not one of {model.name}: {why}.{made_for}",
        data={"adapter": adapter.path, "base": adapter.base},
    )
