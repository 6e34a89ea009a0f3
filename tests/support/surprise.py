"""Run in a managed environment: how far a quantized checkpoint is from its original, loaded as users load them.

``python -I surprise.py FOLDER ORIGINAL TEXT [TOKENS]`` prints ``{"kl": mean over positions, "ratio": of perplexities,
"finite": bool, "tokens": n, "packed": modules}``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(folder: str, original: str, text: str, tokens: int = 128) -> None:
    """Load both, one after the other, and compare what they predict."""
    os.environ.update(HF_HUB_OFFLINE="1", GPTQMODEL_CPU_WORKERS="2", GPTQMODEL_DISABLE_PACK_EXT="1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(original, trust_remote_code=False)
    ids = tokenizer(Path(text).read_text(encoding="utf-8"), return_tensors="pt")["input_ids"][:, :tokens]
    told = []
    packed = 0
    for path in (original, folder):
        model = AutoModelForCausalLM.from_pretrained(
            path, device_map={"": "cpu"}, trust_remote_code=False, use_safetensors=True
        ).eval()
        with torch.inference_mode():
            told.append(model(input_ids=ids).logits[0, :-1].float().log_softmax(-1))
        packed = sum(type(m) is not torch.nn.Linear and hasattr(m, "in_features") for m in model.modules())
    p, q = told
    surprise = [-float(t.gather(1, ids[0, 1:, None]).mean()) for t in told]
    line = {
        "kl": float((p.exp() * (p - q)).sum(-1).mean()),
        "ratio": float(torch.tensor(surprise[1] - surprise[0]).exp()),
        "finite": bool(torch.isfinite(q).all()),
        "tokens": ids.shape[1],
        "packed": packed,
    }
    sys.stdout.write("\n" + json.dumps(line) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
