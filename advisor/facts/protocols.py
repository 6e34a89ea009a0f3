"""Services that one layer needs of another; ``api`` wires them, so that imports keep running one way."""

from __future__ import annotations

from typing import Protocol

from advisor.facts.model import ModelFacts
from advisor.facts.plan import Settings


class EngineAnswer(Protocol):
    """Bytes as the engine itself would allocate them."""

    kv_cache_bytes: int
    compute_bytes: int
    weights_bytes: int


class EngineOracle(Protocol):
    """Asks the runtime what it would allocate, without loading weights; ``None`` where it cannot say."""

    def __call__(self, model: ModelFacts, fmt: str, settings: Settings, /) -> EngineAnswer | None: ...
