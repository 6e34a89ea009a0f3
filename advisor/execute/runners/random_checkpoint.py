"""Write a checkpoint with random weights in the shape of a real model, so that nothing has to be fetched.

Request: ``{"out": empty folder, "config": {...} as in config.json, "tokenizer": folder with a tokenizer or null,
"seed": 0, "scale": 0.02}``. Weights are bfloat16, Gaussian (norms one), one file a layer; a tokenizer of whole words is
made where none is given. Result: ``{"out", "bytes", "params", "seconds"}``.
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


def shapes(config: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama's tensors, in the order of its layers; the outside ones are of layer -1."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    each = config.get("head_dim") or hidden // heads
    cached = config.get("num_key_value_heads", heads) * each
    out: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (config["vocab_size"], hidden))]
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        out += [
            (f"{at}.input_layernorm.weight", (hidden,)),
            (f"{at}.self_attn.q_proj.weight", (heads * each, hidden)),
            (f"{at}.self_attn.k_proj.weight", (cached, hidden)),
            (f"{at}.self_attn.v_proj.weight", (cached, hidden)),
            (f"{at}.self_attn.o_proj.weight", (hidden, heads * each)),
            (f"{at}.post_attention_layernorm.weight", (hidden,)),
            (f"{at}.mlp.gate_proj.weight", (inner, hidden)),
            (f"{at}.mlp.up_proj.weight", (inner, hidden)),
            (f"{at}.mlp.down_proj.weight", (hidden, inner)),
        ]
    out.append(("model.norm.weight", (hidden,)))
    if not config.get("tie_word_embeddings"):
        out.append(("lm_head.weight", (config["vocab_size"], hidden)))
    return out


def words(out: Path, size: int) -> None:
    """A tokenizer of ``size`` whole words: three marks, then w0, w1 ..."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i + 3 for i in range(size - 3)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": c, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False}
            for c, i in (("<unk>", 0), ("<s>", 1), ("</s>", 2))
        ],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }  # fmt: skip
    (out / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": "{% for m in messages %}{{ m.content }} {% endfor %}",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")


def work(request: dict[str, Any]) -> dict[str, Any]:
    """One file for each layer, so that memory holds one layer at a time."""
    import torch
    from safetensors.torch import save_file

    started = time.monotonic()
    out, config = Path(request["out"]), dict(request["config"])
    generator = torch.Generator().manual_seed(int(request.get("seed", 0)))
    scale = float(request.get("scale", 0.02))
    files: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name, shape in shapes(config):
        part = name.split(".")
        files.setdefault(f"layer-{part[2]}" if part[1] == "layers" else part[-2], []).append((name, shape))
    index: dict[str, str] = {}
    total = params = 0
    for done, (label, parts) in enumerate(files.items()):
        tensors = {}
        for name, shape in parts:
            norm = name.endswith("norm.weight")
            tensors[name] = (
                torch.ones(shape, dtype=torch.bfloat16)
                if norm
                else torch.empty(shape, dtype=torch.bfloat16).normal_(0, scale, generator=generator)
            )
            index[name] = f"model-{label}.safetensors"
            params += tensors[name].numel()
        save_file(tensors, out / f"model-{label}.safetensors", metadata={"format": "pt"})
        total += (out / f"model-{label}.safetensors").stat().st_size
        protocol.progress(done + 1, len(files), "files", f"{total / 1e9:.1f} GB")
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}), encoding="utf-8"
    )
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    if request.get("tokenizer"):
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if (Path(request["tokenizer"]) / name).is_file():
                shutil.copyfile(Path(request["tokenizer"]) / name, out / name)
    else:
        words(out, int(config["vocab_size"]))
    return {"out": str(out), "bytes": total, "params": params, "seconds": round(time.monotonic() - started, 3)}


if __name__ == "__main__":
    protocol.run(work, code="step-failed")
