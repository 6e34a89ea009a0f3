"""What one token costs, in terms in which speeds can be compared: bytes and weights by type, cache, layers."""

from __future__ import annotations

import hashlib

from advisor.cost.formats import checkpoint
from advisor.cost.gguf_file import weight_map
from advisor.cost.kv import read_per_token
from advisor.cost.work import bytes_read, weights_of
from advisor.facts.base import dumps_any
from advisor.facts.bench import Work
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings


def shape_of(model: ModelFacts) -> str:
    """Twelve hex digits of the dimensions: the same for every copy, fine-tune and format of one architecture."""
    dimensions = (
        *(model.architecture, model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim),
        *(model.intermediate, model.vocab, model.experts, model.experts_used, model.expert_intermediate),
    )
    return hashlib.sha256(dumps_any(dimensions)).hexdigest()[:12]


def device_names(machine: Machine, keys: tuple[str, ...]) -> tuple[str, ...]:
    """The devices of a plan by name, so that figures never go to another device; the host is ``cpu``."""
    names = {d.id: d.name for d in machine.devices}
    return tuple(sorted("cpu" if key == "host" else names.get(key, key) for key in keys))


def work_of(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    method: str,
    fmt: str,
    settings: Settings,
    depth: int,
    imatrix: bool = False,
    as_is: bool | None = None,
) -> Work:
    """The work of one token with ``depth`` tokens in the cache.

    Raises:
        AdvisorError: ``bad-option`` for a format that cannot be sized.
    """
    cache = float(read_per_token(model, tensors, settings, depth))
    if method != "gguf":
        read = float(checkpoint(model, tensors, method, fmt).read)
        key = f"{method}:{fmt}"
        return Work(read_bytes={key: read}, weights={key: float(model.active_params)}, cache_bytes=cache,
                    layers=model.layers)  # fmt: skip
    found = weight_map(model, tensors, fmt, imatrix=imatrix, as_is=as_is)
    by_type = bytes_read(found, model)
    return Work(
        read_bytes=by_type,
        weights={kind: weights_of(kind, size) for kind, size in by_type.items()},
        cache_bytes=cache,
        layers=len(found.layers),
    )
