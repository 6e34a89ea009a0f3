"""Restore a 16-bit checkpoint folder from a GGUF file of any type.

Request: ``{"gguf": path, "out": empty folder, "dtype": "float16" | "bfloat16"}``. The weights are exactly the ones that
the GGUF file encodes, rounded once to ``dtype``; float16 keeps three bits more of them than bfloat16 and is taken back
where a weight would overflow. Special tokens and the chat template are taken from the file's metadata, because the
tokenizer that transformers rebuilds guesses them.

Result: ``{"out", "bytes", "dtype", "params", "tokens": {"bos", "eos"}, "chat_template": bool, "fixed": [...]}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol

STAGES = 4
# (attribute of the tokenizer, key of the GGUF metadata)
SPECIAL = (
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
)
F16_MAX = 65504.0


def metadata(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The file's scalar and string metadata, and its tokens."""
    import gguf

    reader = gguf.GGUFReader(path)
    values = {
        k: f.contents()
        for k, f in reader.fields.items()
        if len(f.types) == 1 and (k.startswith(("tokenizer.", "general.")) or k.endswith(".context_length"))
    }
    tokens = reader.fields.get("tokenizer.ggml.tokens")
    return values, list(tokens.contents()) if tokens else []


def fix_tokenizer(tokenizer: Any, meta: dict[str, Any], tokens: list[str]) -> list[str]:
    """Set special tokens and chat template as the file has them; return what had to be changed."""
    fixed = []
    for attribute, key in SPECIAL:
        token_id = meta.get(key)
        if token_id is None or not 0 <= token_id < len(tokens):
            continue
        if getattr(tokenizer, attribute) != tokens[token_id]:
            fixed.append(f"{attribute}: {getattr(tokenizer, attribute)!r} -> {tokens[token_id]!r}")
            setattr(tokenizer, attribute, tokens[token_id])
    template = meta.get("tokenizer.chat_template")
    if template and tokenizer.chat_template != template:
        fixed.append("chat template")
        tokenizer.chat_template = template
    return fixed


def check(out: Path, meta: dict[str, Any], tokens: list[str]) -> None:
    """Read the folder back and compare ids and template with the file.

    Raises:
        Failed: ``artifact-invalid``.
    """
    from transformers import AutoTokenizer

    back = AutoTokenizer.from_pretrained(out)
    for attribute, key in SPECIAL[:2]:
        want = meta.get(key)
        if want is None or not 0 <= want < len(tokens):
            continue
        got = getattr(back, f"{attribute}_id")
        if got != want:
            raise protocol.Failed("artifact-invalid", f"The restored {attribute} has id {got}; the file says {want}.")
    if meta.get("tokenizer.chat_template") and back.chat_template != meta["tokenizer.chat_template"]:
        raise protocol.Failed("artifact-invalid", "The restored chat template is not the file's.")
    generation = json.loads((out / "generation_config.json").read_text())
    if "tokenizer.ggml.eos_token_id" in meta and generation.get("eos_token_id") != meta["tokenizer.ggml.eos_token_id"]:
        raise protocol.Failed("artifact-invalid", "generation_config.json ends texts with the wrong token.")


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Restore and check."""
    protocol.use_vendored_gguf()
    source, out = Path(request["gguf"]), Path(request["out"])
    protocol.progress(0, STAGES, "stages", "starting torch and transformers", force=True)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    if request.get("threads"):
        torch.set_num_threads(int(request["threads"]))
    meta, tokens = metadata(source)
    if not tokens:
        raise protocol.Failed(
            "quantizer-failed", f"{source.name} has no tokenizer, so no checkpoint can be made of it."
        )
    wanted = request.get("dtype", "float16")
    protocol.progress(1, STAGES, "stages", "reading and dequantizing weights", force=True)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32 if wanted == "float16" else torch.bfloat16,
    )
    with torch.inference_mode():
        largest = max(float(p.abs().max()) for p in model.parameters())
    if not largest < float("inf"):
        raise protocol.Failed("artifact-invalid", f"{source.name} has weights that are not numbers.")
    dtype = torch.bfloat16 if wanted == "bfloat16" or largest > F16_MAX else torch.float16
    model.to(dtype)
    protocol.progress(2, STAGES, "stages", "writing the checkpoint", force=True)
    fixed = fix_tokenizer(tokenizer, meta, tokens)
    bos, eos = meta.get("tokenizer.ggml.bos_token_id"), meta.get("tokenizer.ggml.eos_token_id")
    pad = meta.get("tokenizer.ggml.padding_token_id")
    model.config.bos_token_id, model.config.eos_token_id = bos, eos
    model.config.dtype = dtype
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.generation_config = GenerationConfig(bos_token_id=bos, eos_token_id=eos, pad_token_id=pad)
    model.save_pretrained(out, max_shard_size="4GB")
    tokenizer.save_pretrained(out)
    for path in out.iterdir():  # safetensors are written for their owner alone
        path.chmod(0o644)
    protocol.progress(3, STAGES, "stages", "reading back", force=True)
    check(out, meta, tokens)
    files = list(out.glob("*.safetensors"))
    protocol.progress(STAGES, STAGES, "stages", "done")
    return {
        "out": str(out),
        "bytes": sum(f.stat().st_size for f in files),
        "dtype": str(dtype).removeprefix("torch."),
        "params": sum(p.numel() for p in model.parameters()),
        "tokens": {"bos": bos, "eos": eos},
        "chat_template": bool(tokenizer.chat_template),
        "fixed": fixed,
        "versions": {"torch": torch.__version__, "transformers": __import__("transformers").__version__},
    }


if __name__ == "__main__":
    protocol.run(work, code="quantizer-failed")
