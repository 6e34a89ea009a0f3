"""Convert a LoRA adapter to a GGUF adapter file with llama.cpp's own converter.

Request: ``{"adapter": folder, "base": checkpoint folder of the model, "out": file, "outtype": "f16"}``.
Result: ``{"out", "bytes", "tensors", "architecture"}``. As in ``convert.py`` no code of a model is run.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import convert
import protocol


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Convert, then read the header back."""
    adapter, base, out = Path(request["adapter"]).resolve(), Path(request["base"]).resolve(), Path(request["out"])
    convert.refuse_code(base)
    protocol.use_vendored_gguf()
    protocol.progress(0, None, "bytes", "starting torch and transformers", force=True)
    import gguf

    convert.never_trust()
    converter = protocol.vendored() / "convert_lora_to_gguf.py"
    if not converter.is_file():
        raise protocol.Failed("env-failed", f"The environment lacks llama.cpp's converter of adapters ({converter}).")
    sys.path.insert(0, str(converter.parent))
    sys.argv = [str(converter), str(adapter), "--base", str(base), "--outfile", str(out)]
    sys.argv += ["--outtype", request.get("outtype", "f16")]
    try:
        runpy.run_path(str(converter), run_name="__main__")
    except SystemExit as e:
        if e.code:
            raise protocol.Failed("step-failed", "The converter does not take this adapter; see the log.") from e
    reader = gguf.GGUFReader(out)
    kind = reader.get_field("general.type")
    if kind is None or kind.contents() != "adapter" or not reader.tensors:
        raise protocol.Failed("artifact-invalid", f"{out.name} is no adapter file.")
    architecture = reader.get_field("general.architecture")
    return {
        "out": str(out),
        "bytes": out.stat().st_size,
        "tensors": len(reader.tensors),
        "architecture": architecture.contents() if architecture is not None else None,
    }


if __name__ == "__main__":
    protocol.run(work, code="step-failed")
