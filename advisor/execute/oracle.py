"""Asks llama.cpp itself what a plan would allocate: the engine oracle of ``estimate --engine`` and of preflight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from advisor.cost.gguf_mix import assign
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute.envs import Env
from advisor.execute.proc import run_runner
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Settings
from advisor.model.tensors import tensors

_DEADLINE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes as the engine would allocate them; ``weights_bytes`` without a repacked second copy, ``None`` if a file
    was asked about, whose header has it."""

    kv_cache_bytes: int
    compute_bytes: int
    weights_bytes: int | None
    state_bytes: int = 0
    output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DryLoad:
    """A callable ``EngineOracle`` over the environment ``llama.cpp``; logs go to ``log``."""

    env: Env
    log: Path
    cancel: Cancel | None = None

    def __call__(self, model: ModelFacts, fmt: str, settings: Settings, /) -> Answer | None:
        """What serving ``model`` in ``fmt`` on the host would take; ``None`` where the engine does not take the model.

        Raises:
            AdvisorError: ``interrupted`` or ``env-failed``.
        """
        return self._ask(dry_request(model, fmt, settings))

    def file(self, path: Path, settings: Settings) -> Answer | None:
        """What serving the GGUF file ``path`` on the host would take; ``None`` and errors as for a model."""
        return self._ask({"path": str(path), **_sizes(settings)})

    def _ask(self, request: dict[str, Any]) -> Answer | None:
        try:
            found = run_runner(
                self.env,
                "dryload.py",
                request,
                step="dry load",
                cancel=self.cancel,
                log=self.log,
                timeout_s=_DEADLINE_S,
            )
        except AdvisorError as e:
            if e.code in ("interrupted", "env-failed"):
                raise
            return None
        return Answer(
            kv_cache_bytes=int(found["kv_cache_bytes"]),
            compute_bytes=int(found["compute_bytes"]),
            weights_bytes=found["weights_bytes"],
            state_bytes=int(found["state_bytes"]),
            output_bytes=int(found["output_bytes"]),
        )


def dry_request(model: ModelFacts, fmt: str, settings: Settings) -> dict[str, Any]:
    """The request of the ``dryload`` runner: the model's own file where it is GGUF, else a header made of its facts.

    Raises:
        AdvisorError: ``bad-option`` for a format that is not GGUF.
    """
    planned = assign(model, tensors(model), fmt, imatrix=False)
    request: dict[str, Any] = {
        **_sizes(settings),
        "tensors": [[a.tensor.name, list(a.tensor.shape), a.type] for a in planned],
    }
    if model.weights_format == "gguf" and model.path is not None:
        return {**request, "path": model.path}
    factors = [a.tensor.width for a in planned if a.tensor.name.startswith("rope_factors")]
    return {**request, "metadata": header(model, rotary=2 * factors[0] if factors else model.head_dim)}


def _sizes(settings: Settings) -> dict[str, Any]:
    return {
        "context": settings.context,
        "parallel": settings.parallel,
        "batch": settings.batch,
        "ubatch": settings.ubatch,
        "kv_type": settings.kv_type,
    }


def header(model: ModelFacts, *, rotary: int) -> dict[str, Any]:
    """Metadata from which llama.cpp builds the model's graph; without a tokenizer. ``rotary``: rotated part of a head.

    Scales do not change sizes; the engine wants them for some architectures.
    """
    arch = model.architecture
    keys: dict[str, Any] = {
        "context_length": model.context_max or 4096,
        "embedding_length": model.hidden,
        "block_count": model.layers,
        "feed_forward_length": model.intermediate,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "rope.dimension_count": rotary,
        "logit_scale": 1.0,
        "vocab_size": model.vocab,
    }
    if model.experts:
        keys |= {
            "expert_count": model.experts,
            "expert_used_count": model.experts_used,
            "expert_feed_forward_length": model.expert_intermediate,
        }
    if model.shared_expert_intermediate:
        keys["expert_shared_feed_forward_length"] = model.shared_expert_intermediate
    if model.dense_layers:
        keys["leading_dense_block_count"] = model.dense_layers
    if model.sliding_window:
        keys["attention.sliding_window"] = model.sliding_window
    return {
        "general.architecture": arch,
        "tokenizer.ggml.model": "no_vocab",
        **{f"{arch}.{k}": v for k, v in keys.items()},
    }
