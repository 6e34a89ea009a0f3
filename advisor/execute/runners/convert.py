"""Convert a checkpoint folder to a 16-bit GGUF file with llama.cpp's own converter.

Request: ``{"folder", "out": file, "outtype": "f16" | "bf16", "name": model name or null,
"tokenizer_of": GGUF file whose tokenizer the result must have, or null}``.
Result: ``{"out", "bytes", "tensors", "types": {type: count}, "differences": [...], "versions": {...}}``.

The converter would run code that a model brings along and would read pickles; both are refused here. Nothing is
fetched.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol

TOKENIZER_KEYS = ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id")


def refuse_code(folder: Path) -> None:
    """Refuse folders that bring code or pickles.

    Raises:
        Failed: ``remote-code-refused`` or ``pickle-refused``.
    """
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and "auto_map" in json.loads(path.read_text(encoding="utf-8")):
            raise protocol.Failed("remote-code-refused", f"{name} asks to run code of the model's own (auto_map).")
    if not any(folder.glob("*.safetensors")):
        pickles = [p.name for p in folder.glob("*.bin")] + [p.name for p in folder.glob("*.pt*")]
        if pickles:
            raise protocol.Failed("pickle-refused", f"The weights are pickles ({pickles[0]}), which can run code.")
        raise protocol.Failed("quantizer-failed", f"{folder} has no .safetensors files.")


def never_trust() -> None:
    """Make the converter's ``trust_remote_code=True`` ineffective."""
    import transformers

    for auto in (transformers.AutoTokenizer, transformers.AutoConfig):
        original = auto.from_pretrained.__func__

        def safe(cls: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            kwargs["trust_remote_code"] = False
            return _original(cls, *args, **kwargs)

        auto.from_pretrained = classmethod(safe)


class Bar:
    """Stands in for the converter's progress bar."""

    def __init__(self, *args: Any, desc: str = "", total: float | None = None, **_: Any) -> None:
        self._items, self._desc, self._total, self._done = (args[0] if args else ()), desc, total, 0.0

    def __iter__(self) -> Any:
        return iter(self._items)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, n: float = 1) -> None:
        """Count ``n`` more bytes."""
        self._done += n
        if self._desc == "Writing":
            protocol.progress(self._done, self._total, "bytes", "converting")

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def tokenizer_differences(ours: Any, theirs: Any) -> list[str]:
    """Names of tokenizer fields that both files have and that differ."""
    out = []
    for key in (*(f"tokenizer.ggml.{k}" for k in TOKENIZER_KEYS), "tokenizer.chat_template"):
        a, b = ours.fields.get(key), theirs.fields.get(key)
        if b is None:
            continue
        if a is None:
            out.append(f"{key} is missing")
        elif a.contents() != b.contents():
            out.append(f"{key} differs")
    return out


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Convert, then read the header back."""
    folder, out = Path(request["folder"]).resolve(), Path(request["out"])
    refuse_code(folder)
    protocol.use_vendored_gguf()
    protocol.progress(0, None, "bytes", "starting torch and transformers", force=True)
    import gguf
    import tqdm

    never_trust()
    tqdm.tqdm = Bar
    converter = protocol.vendored() / "convert_hf_to_gguf.py"
    sys.path.insert(0, str(converter.parent))
    sys.argv = [str(converter), str(folder), "--outfile", str(out), "--outtype", request.get("outtype", "f16")]
    if request.get("name"):
        sys.argv += ["--model-name", request["name"]]
    try:
        runpy.run_path(str(converter), run_name="__main__")
    except SystemExit as e:
        if e.code:
            raise protocol.Failed("quantizer-failed", "The converter does not know this model; see the log.") from e
    reader = gguf.GGUFReader(out)
    types = Counter(t.tensor_type.name.lower() for t in reader.tensors)
    differences = []
    if request.get("tokenizer_of"):
        differences = tokenizer_differences(reader, gguf.GGUFReader(request["tokenizer_of"]))
    import torch
    import transformers

    return {
        "out": str(out),
        "bytes": out.stat().st_size,
        "tensors": len(reader.tensors),
        "types": dict(types),
        "differences": differences,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


if __name__ == "__main__":
    protocol.run(work, code="quantizer-failed")
