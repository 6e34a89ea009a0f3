"""Measure a checkpoint through vLLM, in this process: see ``measuring``.

vLLM answers with the log-probabilities of a few tokens only, so the logits are taken where it computes them for the
prompt: with ``prompt_logprobs`` it calls ``compute_logits`` once for the last position and once for all before.
One sequence at a time in one piece, eagerly, without a prefix cache: every position passes once.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import measuring
import protocol

# One short sequence needs no more, of any model.
_CACHE_GIB = 1


def dtype_of(request: dict[str, Any]) -> str:
    """The type to compute in, as vLLM calls it. On a CPU bfloat16: float16 has no fast kernels on most (512 tokens of
    two layers took 24 s against 3 s)."""
    asked = str(request.get("dtype") or "auto")
    names = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
    return "bfloat16" if asked == "auto" and request.get("device", "cpu") == "cpu" else names.get(asked, asked)


class VllmEngine:
    """A model in vLLM; implements ``measuring.Engine``."""

    def __init__(self, request: dict[str, Any]) -> None:
        cpu = request.get("device", "cpu") == "cpu"
        os.environ.update(
            VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", VLLM_LOGGING_LEVEL="INFO"
        )
        options: dict[str, Any] = {}
        if cpu:
            # Bound to named cores the threads of two engines would share them; left alone the system spreads them.
            os.environ.update(VLLM_CPU_KVCACHE_SPACE=str(_CACHE_GIB), VLLM_CPU_OMP_THREADS_BIND="nobind")
        else:
            options["kv_cache_memory_bytes"] = int(request.get("kv_cache_bytes") or _CACHE_GIB << 30)
            options["gpu_memory_utilization"] = _free_share()
        recipe = request.get("recipe") or {}
        if recipe.get("at_load"):
            options["quantization"] = _at_load(recipe)
        room = int(request["context"]) + int(request.get("max_tokens", 32))
        try:
            import vllm
        except ImportError as e:
            raise protocol.Failed("env-failed", f"vllm is not usable in this environment: {e}") from e
        self._vllm = vllm
        self._llm = vllm.LLM(
            str(request["model"]),
            dtype=dtype_of(request),
            enforce_eager=True,
            max_model_len=room,
            max_num_batched_tokens=room,
            max_num_seqs=1,
            enable_prefix_caching=False,
            enable_chunked_prefill=False,
            disable_log_stats=True,
            trust_remote_code=False,
            seed=0,
            **options,
        )
        self._tokenizer = self._llm.get_tokenizer()
        self.bos = _bos(self._tokenizer)
        self._seen: list[Any] = []
        self._taking, self._bad = False, 0
        models: list[Any] = []
        self._llm.apply_model(models.append)
        if len(models) != 1:
            raise protocol.Failed("step-failed", "A model that is split over processes cannot be measured in one.")
        self.model = models[0]
        self._wrap()
        self.vocab = self._width()

    def _wrap(self) -> None:
        """See every logit that the model computes from here on."""
        inner = self.model.compute_logits

        def compute_logits(*args: Any, **kwargs: Any) -> Any:
            out = inner(*args, **kwargs)
            if self._taking:
                self._seen.append(out)
            else:
                self._bad += int((~out.isfinite()).sum())
            return out

        self.model.compute_logits = compute_logits

    def _width(self) -> int:
        return int(self.logits(self._first_tokens(), 0).shape[1])

    def _first_tokens(self) -> list[int]:
        tokens = self.encode("a b c")
        return tokens if len(tokens) > 1 else tokens * 2

    def encode(self, text: str) -> list[int]:
        """Token ids, special tokens included."""
        return list(self._tokenizer.encode(text))

    def logits(self, tokens: list[int], first: int) -> Any:
        """Logits of the positions ``first`` to the last but one, float32."""
        return self.scored(tokens, first)[0]

    def scored(self, tokens: list[int], first: int) -> tuple[Any, list[float]]:
        """As ``logits``, and vLLM's own log-probability of each token of ``tokens[first + 1:]``."""
        self._seen.clear()
        self._taking = True
        try:
            out = self._run(tokens, 1, prompt_logprobs=0)
        finally:
            self._taking = False
        rows = [x for x in self._seen if x.shape[0] == len(tokens) - 1]
        if not rows:
            shapes = [tuple(x.shape) for x in self._seen]
            raise protocol.Failed("step-failed", f"vLLM computed logits of {shapes} for {len(tokens)} tokens.")
        # For two tokens the row of the prompt and that of the answer have one shape; the prompt's comes last.
        logits = rows[-1][first:].float().cpu().numpy()
        self._seen.clear()
        told = out.prompt_logprobs or []
        own = [float(told[i][tokens[i]].logprob) for i in range(first + 1, len(tokens))]
        return logits, own

    def _run(self, tokens: list[int], limit: int, **more: Any) -> Any:
        sampling = self._vllm.SamplingParams(temperature=0.0, max_tokens=limit, **more)
        return self._llm.generate([{"prompt_token_ids": tokens}], sampling, use_tqdm=False)[0]

    def answer(self, tokens: list[int], limit: int) -> tuple[str, int, int]:
        """Greedy continuation."""
        self._bad = 0
        out = self._run(tokens, limit).outputs[0]
        return out.text, len(out.token_ids), self._bad

    def watch(self) -> measuring.Watch:
        """See ``measuring.Watch``."""
        return measuring.Watch(self.model)

    def facts(self) -> dict[str, Any]:
        """What was really loaded: types after loading, and how each matrix is multiplied.

        ``modules`` are counted by classes: how it is quantized, the scheme, the kernel.
        """
        import torch

        modules: Counter[str] = Counter()
        kept: list[str] = []
        size = _bytes((*self.model.parameters(), *self.model.buffers()))
        for name, module in self.model.named_modules():
            method = getattr(module, "quant_method", None)
            if method is None or not hasattr(module, "input_size") or "Embedding" in type(method).__name__:
                continue
            scheme = getattr(module, "scheme", None)
            parts = [type(x).__name__ for x in (method, scheme) if x is not None]
            modules["/".join((*parts, *_kernels(scheme), *_kernels(method)))] += 1
            if type(method).__name__.startswith("Unquantized"):
                kept.append(name)
                if not module.weight.numel():  # packed for the processor, and its own memory given up
                    inputs = getattr(module, "input_size_per_partition", module.input_size)
                    outputs = getattr(module, "output_size_per_partition", module.output_size)
                    size += inputs * outputs * module.weight.element_size()
        return {
            "bytes": size,
            "dtype": str(self._llm.llm_engine.model_config.dtype).removeprefix("torch."),
            "modules": dict(modules),
            "quantized": modules.total() - len(kept),
            "kept": kept,
            "versions": {"vllm": self._vllm.__version__, "torch": torch.__version__},
        }


def _kernels(owner: Any) -> list[str]:
    """The kernels that a quantization method or scheme holds, under whatever name."""
    return [n for n in (type(v).__name__ for v in getattr(owner, "__dict__", {}).values()) if n.endswith("Kernel")]


def _free_share() -> float:
    """Of the GPU's memory what is free, less a twentieth: vLLM does not start where less is free than it may use."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return round(max(0.05, 0.95 * free / total), 3)


def _bytes(tensors: Iterable[Any]) -> int:
    """Bytes of torch tensors; those that share memory count once."""
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(held.values())


def _at_load(recipe: dict[str, Any]) -> str:
    """What vLLM calls a method that it quantizes with while loading.

    Raises:
        Failed: ``bad-option``.
    """
    names = {"nf4": "bitsandbytes", "fp8": "fp8"}
    method = str(recipe.get("method"))
    if method not in names:
        raise protocol.Failed("bad-option", f"vLLM does not quantize to {method} while loading.")
    return names[method]


def _bos(tokenizer: Any) -> int | None:
    ids = tokenizer.encode("a")
    begin = tokenizer.bos_token_id
    return int(begin) if begin is not None and ids and ids[0] == begin else None


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Load, then measure."""
    started = time.monotonic()
    measuring.use_threads(request)
    protocol.progress(0, int(request["chunks"]), "chunks", "loading", force=True)
    with measuring.memory():
        return measuring.measure(VllmEngine(request), request, started)


if __name__ == "__main__":
    protocol.run(work, code="step-failed")
