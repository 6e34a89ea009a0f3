"""Asking llama.cpp itself what it would allocate: a dry load in the serving environment, no weights read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.facts.base import Shape
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Plan
from advisor.facts.plan import Settings as RunSettings
from advisor.facts.quantity import Quantity, exact, total

if TYPE_CHECKING:
    from advisor.execute.envs import Env
    from advisor.facts.protocols import EngineOracle
    from advisor.settings import Settings

RUNNER: Final = "dryload.py"
SOURCE: Final = "llama.cpp, dry load"
_TIMEOUT_S: Final = 120.0


class EngineReply(Shape, frozen=True, kw_only=True):
    """Bytes as the engine would allocate them. ``weights_bytes`` is the sum of the tensors, ``None`` if not counted."""

    weights_bytes: int | None
    kv_cache_bytes: int
    state_bytes: int
    compute_bytes: int
    output_bytes: int
    cells: int


def _request(settings: RunSettings) -> dict[str, Any]:
    return {
        "context": settings.context,
        "parallel": settings.parallel,
        "batch": settings.batch,
        "ubatch": settings.ubatch,
        "kv_type": settings.kv_type,
    }


def _ask(settings: Settings, env: Env, request: dict[str, Any], cancel: Cancel | None) -> EngineReply | None:
    from advisor.execute.proc import run_runner

    try:
        reply = run_runner(
            env,
            RUNNER,
            request,
            step="ask-engine",
            reporter=None,
            cancel=cancel,
            log=settings.paths.logs / "steps" / "dryload.log",
            timeout_s=_TIMEOUT_S,
        )
    except AdvisorError as e:
        if e.code == "interrupted":
            raise
        # An engine that does not know a header is no reason to stop: launching it will tell.
        return None
    return msgspec.convert(reply, EngineReply)


def ask_about_file(
    settings: Settings, env: Env, path: Path, run: RunSettings, *, cancel: Cancel | None = None
) -> EngineReply | None:
    """What the engine would allocate for a GGUF file; ``None`` where it cannot say.

    Raises:
        AdvisorError: ``interrupted``.
    """
    return _ask(settings, env, {"path": str(path), **_request(run)}, cancel)


def with_answer(plan: Plan, reply: EngineReply) -> Plan:
    """The plan with cache, state, work and output buffer as the engine gave them, and the totals that follow."""
    memory = plan.memory
    new = {
        "kv_cache": exact(reply.kv_cache_bytes, "bytes", SOURCE, "engine"),
        "state": exact(reply.state_bytes, "bytes", SOURCE, "engine"),
        "compute": exact(reply.compute_bytes, "bytes", SOURCE, "engine"),
        "output": exact(reply.output_bytes, "bytes", SOURCE, "engine"),
    }
    parts = [new.get(name, getattr(memory, name)) for name in
             ("weights", "kv_cache", "state", "compute", "output", "repack", "overhead")]  # fmt: skip
    whole = total(parts, f"sum; cache and buffers: {SOURCE}")
    by_device: dict[str, Quantity] = {"host": whole} if set(memory.by_device) == {"host"} else dict(memory.by_device)
    corrected = msgspec.structs.replace(memory, total=whole, by_device=by_device, **new)
    return msgspec.structs.replace(plan, memory=corrected)


def header_of(model: ModelFacts, fmt: str) -> dict[str, Any] | None:
    """Metadata and tensors of the GGUF file that ``model`` would become, for a dry load; ``None`` where not known."""
    from advisor.cost.gguf_mix import assign, makes_imatrix
    from advisor.model.tensors import tensors

    if model.confidence == "low" or model.experts or model.sliding_window:
        return None
    arch = model.architecture
    metadata = {
        "general.architecture": arch,
        "tokenizer.ggml.model": "no_vocab",
        f"{arch}.vocab_size": model.vocab,
        f"{arch}.context_length": model.context_max or 4096,
        f"{arch}.embedding_length": model.hidden,
        f"{arch}.block_count": model.layers,
        f"{arch}.feed_forward_length": model.intermediate,
        f"{arch}.attention.head_count": model.heads,
        f"{arch}.attention.head_count_kv": model.kv_heads,
        f"{arch}.attention.key_length": model.head_dim,
        f"{arch}.attention.value_length": model.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.dimension_count": model.head_dim,
    }
    assigned = assign(model, tensors(model), fmt, imatrix=makes_imatrix(fmt))
    return {"metadata": metadata, "tensors": [[a.tensor.name, list(a.tensor.shape), a.type] for a in assigned]}


def oracle(settings: Settings) -> EngineOracle:
    """An oracle over the serving environment, which must have been built.

    Raises:
        AdvisorError: ``env-failed`` where it has not.
    """
    from advisor.api.making import SERVING_ENV
    from advisor.execute import envs

    env = envs.find(SERVING_ENV, settings=settings)
    if env is None:
        raise AdvisorError(
            "env-failed",
            f"The environment {SERVING_ENV} is not built, so the engine cannot be asked.",
            hint=f"advisor env build {SERVING_ENV}",
        )
    ready = env

    def ask(model: ModelFacts, fmt: str, run: RunSettings, /) -> EngineReply | None:
        header = header_of(model, fmt)
        return None if header is None else _ask(settings, ready, {**header, **_request(run)}, None)

    return ask
