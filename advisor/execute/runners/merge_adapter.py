"""Merge a LoRA adapter into a 16-bit checkpoint with peft.

Request: ``{"folder", "adapter", "out": empty folder, "threads"}``.
Result: ``{"out", "bytes", "merged": matrices changed, "largest_change": of a weight, "versions": {...}}``.

Every LoRA matrix of the adapter must find its place; the merged weights must be finite and differ from the original.
The tokenizer is the adapter's own where it brings one: fine-tuning may have added tokens or a chat template.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import convert
import protocol

TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
             "merges.txt", "added_tokens.json", "chat_template.jinja")  # fmt: skip


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Load, merge, compare, save."""
    folder, adapter, out = Path(request["folder"]), Path(request["adapter"]), Path(request["out"])
    convert.refuse_code(folder)
    protocol.progress(0, 3, "parts", "starting torch and peft", force=True)
    import peft
    import safetensors
    import torch
    import transformers

    if request.get("threads"):
        torch.set_num_threads(int(request["threads"]))
    with safetensors.safe_open(adapter / "adapter_model.safetensors", framework="pt") as f:
        names = [n for n in f.keys() if ".lora_A." in n]  # noqa: SIM118 - not a dictionary
    if not names:
        raise protocol.Failed("artifact-invalid", f"{adapter} has no LoRA matrices.")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", trust_remote_code=False, use_safetensors=True
    )
    protocol.progress(1, 3, "parts", f"merging {len(names)} matrices", force=True)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if any(_same(n, k) for k in names)}
    wrapped = peft.PeftModel.from_pretrained(model, adapter, is_trainable=False)
    placed = sum(1 for n, _ in wrapped.named_parameters() if ".lora_A." in n)
    if placed != len(names):
        raise protocol.Failed(
            "artifact-invalid", f"The adapter has {len(names)} LoRA matrices; {placed} have a place in this model."
        )
    try:
        merged = wrapped.merge_and_unload(safe_merge=True)
    except ValueError as e:  # what peft raises where the merged weights are not finite
        raise protocol.Failed("artifact-invalid", f"The adapter cannot be merged: {e}") from e
    after = dict(merged.named_parameters())
    changed, largest = 0, 0.0
    for name, old in before.items():
        new = after[name]
        if not bool(torch.isfinite(new).all()):
            raise protocol.Failed("artifact-invalid", f"Merging made {name} infinite or not a number.")
        if new.shape == old.shape:
            most = float((new - old).abs().max())
            changed += most > 0
            largest = max(largest, most)
    if not changed:
        raise protocol.Failed("artifact-invalid", "The adapter changes nothing: it was never trained, or is all zero.")
    protocol.progress(2, 3, "parts", "writing", force=True)
    merged.save_pretrained(out, safe_serialization=True)
    own = (adapter / "tokenizer.json").is_file() or (adapter / "tokenizer.model").is_file()
    for name in TOKENIZER:
        source = adapter / name if own and (adapter / name).is_file() else folder / name
        if source.is_file():
            shutil.copyfile(source, out / name)
    if (folder / "generation_config.json").is_file() and not (out / "generation_config.json").is_file():
        shutil.copyfile(folder / "generation_config.json", out / "generation_config.json")
    protocol.progress(3, 3, "parts", "", force=True)
    return {
        "out": str(out),
        "bytes": sum(p.stat().st_size for p in out.glob("*.safetensors")),
        "merged": changed,
        "largest_change": largest,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }


def _same(parameter: str, lora: str) -> bool:
    """Whether a model's parameter is the matrix that a LoRA tensor belongs to."""
    matrix = lora.partition(".lora_A.")[0].removeprefix("base_model.model.")
    return parameter == f"{matrix}.weight"


if __name__ == "__main__":
    protocol.run(work, code="step-failed")
