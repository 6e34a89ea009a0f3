"""What all runners that quantize checkpoints share: calibration pieces, progress by layers, what is copied and counted.

Request of every one: ``{"folder", "out", "recipe": {...}, "calibration": file or null, "threads": n}``; ``folder`` is a
16-bit checkpoint, ``out`` an empty folder, ``recipe`` what ``advisor.facts.recipe.Recipe`` says.

Result of every one: ``{"out", "bytes", "quantized": modules, "kept": [names left in 16 bits], "samples", "tokens",
"non_finite", "seconds", "peak_bytes", "device", "device_peak_bytes", "versions": {...}, "notes": [...]}``.

Nothing heavy is imported before a function needs it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol

# Written as they are in the source: a quantizer's library rewrites them with what its version believes in.
KEEP = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
# Shorter pieces say nothing about how layers work on text.
MIN_TOKENS = 8


def device() -> str:
    """``cuda`` where torch has a device of that kind (NVIDIA or AMD), else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def threads(request: dict[str, Any]) -> None:
    """Let torch use as many threads as were granted."""
    import torch

    if request.get("threads"):
        torch.set_num_threads(int(request["threads"]))


def tokenizer_of(folder: Path) -> Any:
    """The checkpoint's own tokenizer; code that came with a model is never run."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def pieces(tokenizer: Any, request: dict[str, Any]) -> list[list[int]]:
    """Token ids of the calibration pieces, each at most ``sequence_length`` long, at most ``samples`` of them.

    A line of the file is ``{"text": ...}`` or ``{"messages": [...]}``; messages go through the model's own chat
    template. A line of more tokens gives one piece, its beginning. An empty list where the recipe takes no samples.

    Raises:
        Failed: ``quantizer-failed``, there is no file, a line is neither, or nothing of use is in it.
    """
    recipe = request["recipe"]
    samples, length = int(recipe["samples"]), int(recipe["sequence_length"])
    if not samples:
        return []
    if not request.get("calibration"):
        raise protocol.Failed("quantizer-failed", f"{recipe['method']} needs calibration text, and none was given.")
    out: list[list[int]] = []
    path = Path(request["calibration"])
    with path.open(encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            if len(out) == samples:
                break
            if line.strip():
                ids = _ids(tokenizer, line, f"{path.name} line {number}")[:length]
                if len(ids) >= MIN_TOKENS:
                    out.append(ids)
    if not out:
        raise protocol.Failed(
            "quantizer-failed", f"No calibration samples: {path.name} has no piece of {MIN_TOKENS} tokens or more."
        )
    return out


def _ids(tokenizer: Any, line: str, where: str) -> list[int]:
    try:
        row = json.loads(line)
    except ValueError as e:
        raise protocol.Failed("quantizer-failed", f"{where} is not JSON: {e}") from e
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        return list(tokenizer(row["text"], verbose=False)["input_ids"])
    if isinstance(row, dict) and isinstance(row.get("messages"), list):
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    raise protocol.Failed("quantizer-failed", f"{where} has neither a text nor messages.")


class Layers:
    """Progress in layers, with the seconds that are left at the rate so far.

    ``already`` counts what an earlier run finished: it is done, but says nothing about the rate.
    """

    def __init__(self, total: int, already: int = 0) -> None:
        self.total, self.count, self._first = total, already, already
        self._started = time.monotonic()
        protocol.progress(already, total, "layers", "quantizing", force=True)

    def done(self, count: int | None = None, what: str = "") -> None:
        """``count`` layers are done in all (one more where it is not said); never goes back."""
        self.count = min(self.total, max(self.count, self.count + 1 if count is None else count))
        spent = time.monotonic() - self._started
        new = self.count - self._first
        left = spent / new * (self.total - self.count) if new else None
        told = f"{spent:.0f} s, about {left:.0f} s left" if left is not None else f"{spent:.0f} s"
        protocol.progress(self.count, self.total, "layers", f"{what}: {told}" if what else told, force=True)


def copy_tokenizer(folder: Path, out: Path) -> list[str]:
    """Copy tokenizer, chat template and generation settings of the source, byte for byte; return their names."""
    copied = []
    for name in KEEP:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
            copied.append(name)
    return copied


def tidy(out: Path) -> int:
    """Make what was written readable, as other files are; return the bytes of the weights."""
    for path in out.rglob("*"):
        if path.is_file():  # safetensors are written for their owner alone
            path.chmod(0o644)
    return sum(p.stat().st_size for p in out.glob("*.safetensors"))


def non_finite(out: Path) -> dict[str, int]:
    """Floating-point tensors of the written weights with values that are not finite, and how many; one at a time."""
    import torch
    from safetensors import safe_open

    found: dict[str, int] = {}
    for file in sorted(out.glob("*.safetensors")):
        with safe_open(file, framework="pt") as f:
            for name in f.keys():  # noqa: SIM118 - no mapping
                tensor = f.get_tensor(name)
                if not tensor.is_floating_point():
                    continue
                wide = tensor if tensor.dtype in (torch.float16, torch.bfloat16, torch.float32) else tensor.float()
                bad = int(wide.numel() - torch.isfinite(wide).sum())
                if bad:
                    found[name] = bad
    return found


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def device_peak_bytes() -> int | None:
    """The most device memory that torch has held; ``None`` without a device."""
    import torch

    return int(torch.cuda.max_memory_reserved()) if torch.cuda.is_available() else None


def versions(*names: str) -> dict[str, str]:
    """Installed versions of those distributions that there are."""
    from importlib import metadata

    out = {}
    for name in names:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def finish(
    request: dict[str, Any],
    *,
    started: float,
    quantized: int,
    kept: list[str],
    samples: list[list[int]],
    packages: tuple[str, ...],
    notes: list[str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Copy what belongs to the weights, count what is in them, and return the result.

    ``started``: of ``time.monotonic``; ``packages``: distributions whose versions are recorded.

    Raises:
        Failed: ``artifact-invalid``, no weights were written, nothing was quantized, or values are not finite.
    """
    folder, out = Path(request["folder"]), Path(request["out"])
    copy_tokenizer(folder, out)
    size = tidy(out)
    if not size:
        raise protocol.Failed("artifact-invalid", "The quantizer wrote no weights.")
    if not quantized:
        raise protocol.Failed("artifact-invalid", "The quantizer left every matrix as it was.")
    bad = non_finite(out)
    if bad:
        name, count = next(iter(bad.items()))
        raise protocol.Failed(
            "artifact-invalid",
            f"{sum(bad.values())} values in {len(bad)} tensors are not finite (NaN or infinite), first in {name}: "
            f"{count}.",
            [*bad][:20],
        )
    return {
        "out": str(out),
        "bytes": size,
        "quantized": quantized,
        "kept": sorted(kept),
        "samples": len(samples),
        "tokens": sum(len(p) for p in samples),
        "non_finite": 0,
        "seconds": round(time.monotonic() - started, 3),
        "peak_bytes": peak_bytes(),
        "device": device(),
        "device_peak_bytes": device_peak_bytes(),
        "versions": versions(*packages),
        "notes": notes or [],
        **more,
    }
