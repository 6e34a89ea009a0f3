"""Asks llama.cpp itself what a plan would allocate: the engine oracle of ``estimate --engine`` and of preflight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from advisor.cost.gguf_mix import assign
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute.dry_header import header as header
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
    return {**request, "metadata": header(model, tuple(a.tensor for a in planned))}


def _sizes(settings: Settings) -> dict[str, Any]:
    return {
        "context": settings.context,
        "parallel": settings.parallel,
        "batch": settings.batch,
        "ubatch": settings.ubatch,
        "kv_type": settings.kv_type,
    }
