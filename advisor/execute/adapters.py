"""A LoRA adapter merged into a checkpoint, or turned into a GGUF adapter file: two steps of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advisor.errors import AdvisorError
from advisor.execute.make import Made, Making, identity
from advisor.execute.store import file_sha256
from advisor.model.adapters import CONFIG, WEIGHTS


def adapter_identity(folder: Path) -> str:
    """The content hash of what counts of an adapter: its configuration and its weights."""
    return f"{file_sha256(folder / CONFIG)} {file_sha256(folder / WEIGHTS)}"


def merge(making: Making, base: Path, adapter: Path, *, identity_of: str | None = None) -> Made:
    """The checkpoint ``base`` with ``adapter`` merged into its weights.

    Raises:
        AdvisorError: ``artifact-invalid`` where a matrix has no place, nothing changes or weights are not finite; as
            ``Making.step``.
    """

    def request(tmp: Path) -> dict[str, Any]:
        (tmp / "checkpoint").mkdir()
        return {"folder": str(base), "adapter": str(adapter), "out": str(tmp / "checkpoint")}

    def check(tmp: Path, result: dict[str, Any]) -> dict[str, Any]:
        folder = tmp / "checkpoint"
        if not (folder / "config.json").is_file() or not result["bytes"]:
            raise AdvisorError("artifact-invalid", "Merging the adapter wrote no model.")
        return {k: v for k, v in result.items() if k != "out"}

    return making.step(
        "merge",
        "merge_adapter.py",
        inputs={"base": identity_of or identity(base), "adapter": adapter_identity(adapter)},
        params={},
        request=request,
        product="checkpoint",
        check=check,
    )


def to_gguf(making: Making, base: Path, adapter: Path, *, name: str, identity_of: str | None = None) -> Made:
    """The adapter itself as a GGUF file, which llama.cpp loads beside the unchanged model (``--lora``).

    Raises:
        AdvisorError: ``artifact-invalid``; as ``Making.step``.
    """
    from advisor.execute.make import file_stem

    file = f"{file_stem(name)}-lora-f16.gguf"

    def check(tmp: Path, result: dict[str, Any]) -> dict[str, Any]:
        if not (tmp / file).is_file() or not result["tensors"]:
            raise AdvisorError("artifact-invalid", f"{file} was not written, or is empty.")
        return {k: v for k, v in result.items() if k != "out"}

    return making.step(
        "adapter",
        "convert_adapter.py",
        inputs={"base": identity_of or identity(base), "adapter": adapter_identity(adapter)},
        params={"outtype": "f16"},
        request=lambda tmp: {"adapter": str(adapter), "base": str(base), "out": str(tmp / file), "outtype": "f16"},
        product=file,
        check=check,
    )
