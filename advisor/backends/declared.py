"""Backends that this version plans with but does not start: capabilities and log diagnosis only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from advisor.backends.base import Command, QuantizerCapabilities, RuntimeCapabilities, ServeRequest
from advisor.backends.diagnose import Known, first
from advisor.errors import AdvisorError
from advisor.facts.recipe import Recipe
from advisor.facts.results import Finding

_GROUPED: Final = ("w4a16-g128", "w4a16-g64", "w4a16-g32")


def gpu_server(name: str, needs: dict[str, tuple[str, ...]]) -> RuntimeCapabilities:
    """Capabilities of a server of checkpoints on NVIDIA and AMD devices that advisor gives the command for.

    Minimum compute capabilities: Marlin's kernels (7.5) for 4-bit codes and INT8, Marlin's weight-only FP8 (8.0).
    """
    return RuntimeCapabilities(
        name=name,
        methods={
            "awq": _GROUPED,
            "gptq": _GROUPED,
            "w8a8": ("w8a8",),
            "fp8": ("fp8",),
            "none": ("bf16", "f16"),
        },
        devices=("nvidia", "amd"),
        executable=False,
        needs=needs,
        min_compute_capability={"awq": 7.5, "gptq": 7.5, "w8a8": 7.5, "fp8": 8.0, "bf16": 8.0, "f16": 7.5},
    )


class DeclaredQuantizer:
    """A quantizer known by its capabilities."""

    def __init__(self, capabilities: QuantizerCapabilities, failures: Sequence[Known] = ()) -> None:
        self.name = capabilities.name
        self.runner: str | None = None
        self._capabilities, self._failures = capabilities, tuple(failures)

    def capabilities(self) -> QuantizerCapabilities:
        """What it makes and what it needs."""
        return self._capabilities

    def check(self, recipe: Recipe) -> None:
        """Nothing of it is carried out here, so nothing is refused."""

    def diagnose(self, log_tail: str) -> Finding | None:
        """The known failure that a log tail shows."""
        return first(self._failures, log_tail)


class DeclaredRuntime:
    """A runtime known by its capabilities; ``serve`` refuses."""

    def __init__(
        self, capabilities: RuntimeCapabilities, *, health_path: str = "/health", failures: Sequence[Known] = ()
    ) -> None:
        self.name = capabilities.name
        self.health_path = health_path
        self.runner: str | None = None
        self._capabilities, self._failures = capabilities, tuple(failures)

    def capabilities(self) -> RuntimeCapabilities:
        """What it loads, where, and what it needs."""
        return self._capabilities

    def serve(self, request: ServeRequest) -> Command:
        """Refuse: this version cannot start it.

        Raises:
            AdvisorError: ``not-available``.
        """
        raise AdvisorError(
            "not-available",
            f"This version of advisor plans with {self.name} but cannot start it.",
            hint="advisor up --runtime llama.cpp",
            data={"runtime": self.name},
        )

    def ready(self, status: int, body: bytes) -> bool:
        """Whether the health path answered 200."""
        return status == 200

    def diagnose(self, log_tail: str) -> Finding | None:
        """The known failure that a log tail shows."""
        return first(self._failures, log_tail)
