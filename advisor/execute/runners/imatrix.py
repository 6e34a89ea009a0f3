"""Measure an importance matrix: the mean squared input of every weight column, over calibration text.

Request: ``{"folder", "text": file, "out": file, "chunks": n, "context": 512, "threads": n,
"dtype": "auto" | "float32" | "bfloat16", "dataset": name}``.

The text is tokenized by the model's own tokenizer and cut into chunks of ``context`` tokens; each starts with the
model's begin token where it has one. Written in llama.cpp's GGUF form: for every matrix ``<name>.in_sum2``
(1, columns) and ``<name>.counts`` (1, 1), both float32.

Result: ``{"out", "tensors", "missing": [...], "chunks", "tokens", "seconds", "seconds_per_chunk", "dtype"}``.
Embeddings and the output matrix are left out, as llama.cpp does by default. Fused experts have no input of their own
here and are listed in ``missing``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol


def pick_dtype(folder: Path, wanted: str) -> str:
    """Float32 where the weights take at most 60 % of free memory in it, else bfloat16."""
    if wanted != "auto":
        return wanted
    import psutil

    stored = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    return "float32" if 2 * stored < 0.6 * psutil.virtual_memory().available else "bfloat16"


def gguf_names(folder: Path, layers: int) -> Any:
    """The map from checkpoint names to GGUF names for this architecture.

    Raises:
        Failed: ``quantizer-failed``, the converter does not know the architecture.
    """
    import gguf

    sys.path.insert(0, str(protocol.vendored()))
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = ModelBase.load_hparams(folder, False)
    try:
        arch = get_model_class(get_model_architecture(hparams, ModelType.TEXT)).model_arch
    except NotImplementedError as e:
        raise protocol.Failed("quantizer-failed", "The converter does not know this model.") from e
    return gguf.get_tensor_name_map(arch, layers)


def chunked(folder: Path, text: Path, context: int, chunks: int) -> list[list[int]]:
    """Token ids of at most ``chunks`` chunks.

    Raises:
        Failed: ``quantizer-failed``, the text is too short for one chunk.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    ids = tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    probe = tokenizer("a")["input_ids"]
    bos = tokenizer.bos_token_id
    starts = bos is not None and probe[:1] == [bos]
    pieces = [ids[i : i + context] for i in range(0, len(ids) - context + 1, context)][:chunks]
    if not pieces:
        raise protocol.Failed("quantizer-failed", f"{text.name} has {len(ids)} tokens; one chunk takes {context}.")
    return [[bos, *p[1:]] for p in pieces] if starts else pieces


def write(out: Path, sums: dict[str, Any], counts: dict[str, int], dataset: str, chunks: int, context: int) -> None:
    """Write the GGUF form."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(out, arch="")
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", context)
    for name in sorted(sums):
        writer.add_tensor(f"{name}.in_sum2", sums[name].numpy().astype(np.float32).reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.array([[counts[name]]], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Hook every linear layer, run the chunks, write the sums."""
    protocol.use_vendored_gguf()
    folder, out = Path(request["folder"]), Path(request["out"])
    wanted_chunks, context = int(request["chunks"]), int(request.get("context", 512))
    protocol.progress(0, wanted_chunks, "chunks", "starting torch and transformers", force=True)
    import torch
    from transformers import AutoModelForCausalLM

    if request.get("threads"):
        torch.set_num_threads(int(request["threads"]))
    pieces = chunked(folder, Path(request["text"]), context, wanted_chunks)
    dtype = pick_dtype(folder, request.get("dtype", "auto"))
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True
    ).eval()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layers = model.config.get_text_config().num_hidden_layers
    names = gguf_names(folder, layers)
    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}
    missing: list[str] = []

    def hook(name: str) -> Any:
        def add(_module: Any, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            sums[name] += x.square().sum(0).double()
            counts[name] += 1

        return add

    for key, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or module is model.get_output_embeddings():
            continue
        name = names.get_name(f"{key}.weight", try_suffixes=(".weight",))
        if name is None:
            missing.append(key)
            continue
        sums[name] = torch.zeros(module.in_features, dtype=torch.float64)
        counts[name] = 0
        module.register_forward_pre_hook(hook(name))
    if not sums:
        raise protocol.Failed("quantizer-failed", f"No matrix of {config.get('architectures')} could be measured.")
    body = model.get_decoder() if hasattr(model, "get_decoder") else model
    started = time.monotonic()
    with torch.inference_mode():
        for i, piece in enumerate(pieces):
            body(input_ids=torch.tensor([piece]), use_cache=False)
            spent = time.monotonic() - started
            left = spent / (i + 1) * (len(pieces) - i - 1)
            protocol.progress(i + 1, len(pieces), "chunks", f"{spent:.0f} s, about {left:.0f} s left", force=True)
    bad = [n for n, s in sums.items() if not bool(torch.isfinite(s).all())]
    if bad:
        raise protocol.Failed("quantizer-failed", f"The inputs of {bad[0]} are not finite in {dtype}.")
    unused = sorted(n for n, c in counts.items() if c == 0)
    for name in unused:
        del sums[name]
    write(out, sums, counts, request.get("dataset", Path(request["text"]).name), len(pieces), context)
    seconds = time.monotonic() - started
    return {
        "out": str(out),
        "tensors": len(sums),
        "missing": missing + unused,
        "chunks": len(pieces),
        "tokens": len(pieces) * context,
        "seconds": round(seconds, 3),
        "seconds_per_chunk": round(seconds / len(pieces), 3),
        "dtype": dtype,
    }


if __name__ == "__main__":
    protocol.run(work, code="quantizer-failed")
