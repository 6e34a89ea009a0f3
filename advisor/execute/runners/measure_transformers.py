"""Measure a checkpoint through transformers, as its recipe says it is loaded: see ``measuring``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import measuring
import protocol


class TransformersEngine:
    """A model in transformers; implements ``measuring.Engine``."""

    def __init__(self, model: Any, tokenizer: Any, report: dict[str, Any]) -> None:
        self.model, self._tokenizer, self._report = model, tokenizer, report
        ids = tokenizer("a")["input_ids"]
        begin = tokenizer.bos_token_id
        self.bos = int(begin) if begin is not None and ids and ids[0] == begin else None
        self.vocab = int(self.logits([0, 0], 0).shape[1])
        stop = model.generation_config.eos_token_id
        self._stop = set(stop if isinstance(stop, list) else [stop]) | {tokenizer.eos_token_id}

    def encode(self, text: str) -> list[int]:
        """Token ids, special tokens included."""
        return list(self._tokenizer(text)["input_ids"])

    def logits(self, tokens: list[int], first: int) -> Any:
        """Logits of the positions ``first`` to the last but one, float32."""
        import torch

        ids = torch.tensor([tokens], device=self.model.device)
        with torch.inference_mode():
            out = self.model(input_ids=ids, use_cache=False, logits_to_keep=len(tokens) - first)
        return out.logits[0, -(len(tokens) - first) : -1].float().cpu().numpy()

    def answer(self, tokens: list[int], limit: int) -> tuple[str, int, int]:
        """Greedy continuation."""
        import torch

        ids, past, made, bad = torch.tensor([tokens], device=self.model.device), None, [], 0
        with torch.inference_mode():
            for _ in range(limit):
                out = self.model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
                last, past = out.logits[0, -1].float(), out.past_key_values
                bad += int((~torch.isfinite(last)).sum())
                token = int(last.argmax())
                if token in self._stop:
                    break
                made.append(token)
                ids = torch.tensor([[token]], device=self.model.device)
        return self._tokenizer.decode(made, skip_special_tokens=True), len(made), bad

    def watch(self) -> measuring.Watch:
        """See ``measuring.Watch``."""
        return measuring.Watch(self.model)

    def facts(self) -> dict[str, Any]:
        """What was really loaded, see ``loading.what``."""
        names = ("bytes", "dtype", "modules", "quantized", "kept", "quantization", "versions")
        return {name: self._report.get(name) for name in names}


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Load, then measure.

    Raises:
        Failed: what loading raises; ``env-failed``.
    """
    started = time.monotonic()
    threads = measuring.use_threads(request)
    protocol.progress(0, int(request["chunks"]), "chunks", "loading", force=True)
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as e:
        raise protocol.Failed("env-failed", f"transformers is not usable in this environment: {e}") from e
    import loading

    with measuring.memory():
        loaded = loading.load(
            request["model"],
            recipe=request.get("recipe"),
            device=str(request.get("device") or "cpu"),
            dtype=str(request.get("dtype") or "auto"),
            threads=threads,
        )
        return measuring.measure(TransformersEngine(*loaded), request, started)


if __name__ == "__main__":
    protocol.run(work, code="step-failed")
