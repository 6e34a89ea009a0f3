"""Services that one layer needs of another; ``api`` wires them, so that imports keep running one way."""

from __future__ import annotations

from typing import Protocol

from advisor.facts.model import ModelFacts
from advisor.facts.plan import Settings


class EngineAnswer(Protocol):
    """Bytes as the engine itself would allocate them."""

    @property
    def kv_cache_bytes(self) -> int:
        """The KV cache."""
        ...

    @property
    def state_bytes(self) -> int:
        """Recurrent state."""
        ...

    @property
    def compute_bytes(self) -> int:
        """The largest work buffer."""
        ...

    @property
    def output_bytes(self) -> int:
        """The buffer of logits."""
        ...


class EngineOracle(Protocol):
    """Asks the runtime what it would allocate, without loading weights; ``None`` where it cannot say."""

    def __call__(self, model: ModelFacts, fmt: str, settings: Settings, /) -> EngineAnswer | None:
        """Answer for one model, GGUF format and settings."""
        ...
