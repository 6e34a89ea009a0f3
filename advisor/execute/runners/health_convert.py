"""Prove that the environment ``convert`` works: make a tiny checkpoint, convert it, quantize it both ways.

Request: ``{}``. Result: ``{"versions", "architectures": number the converter knows, "tensors"}``.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol

PACKAGES = ("torch", "transformers", "numpy", "safetensors", "sentencepiece", "accelerate", "cyllama", "libgguf")
ALPHABET = "<unk> <s> </s> a b c d e f g h i j k l m n o p q r s t u v w x y z"


def checkpoint(folder: Path) -> None:
    """Write a random two-layer Llama of width 256 with a word tokenizer."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM

    words = ALPHABET.split()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.float16).save_pretrained(folder)
    Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>")).save(str(folder / "tokenizer.json"))


def convert(folder: Path, out: Path) -> int:
    """Convert the weights with the vendored converter (its vocabulary part set aside); number of tensors."""
    sys.path.insert(0, str(protocol.vendored()))
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = ModelBase.load_hparams(folder, False)
    kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    # The word tokenizer of this checkpoint is not one that llama.cpp knows; only the weights matter here.
    body = {
        "model_arch": kind.model_arch,
        "set_vocab": lambda self: self.gguf_writer.add_tokenizer_model("no_vocab"),
    }
    tiny = type("Tiny", (kind,), body)
    with torch.inference_mode():
        tiny(folder, gguf.LlamaFileType.MOSTLY_F16, out).write()
    return len(gguf.GGUFReader(out).tensors)


def work(_request: dict[str, Any]) -> dict[str, Any]:
    """Run every part once."""
    protocol.use_vendored_gguf()
    protocol.progress(0, 3, "checks", "starting torch and transformers", force=True)
    import gguf
    import libgguf
    import numpy as np
    import quantize

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint(folder)
        protocol.progress(1, 3, "checks", "converting a tiny checkpoint", force=True)
        tensors = convert(folder, folder / "f16.gguf")
        protocol.progress(2, 3, "checks", "quantizing it", force=True)
        quantize.by_llama_cpp(folder / "f16.gguf", folder / "q4_k_m.gguf", "q4_k_m", 1, False)
        checked = quantize.check(folder / "f16.gguf", folder / "q4_k_m.gguf")
    if "q4_k" not in checked["types"].values():
        raise protocol.Failed("env-failed", f"q4_k_m has no Q4_K tensor: {sorted(set(checked['types'].values()))}")
    rows = np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256)
    number = int(gguf.GGMLQuantizationType.Q4_K)
    back = libgguf.dequantize_rows(libgguf.quantize_rows(rows, number, imatrix=np.ones(256, np.float32)), number, 256)
    if float(np.abs(back - rows).max()) > 0.1:
        raise protocol.Failed("env-failed", "libgguf does not give back what it quantized.")
    return {"versions": {n: metadata.version(n) for n in PACKAGES}, "tensors": tensors}


if __name__ == "__main__":
    protocol.run(work, code="env-failed")
