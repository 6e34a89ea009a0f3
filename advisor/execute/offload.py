"""Loads a model with layers on a device, for real or dry: what the engine allocates where, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute.envs import Env
from advisor.execute.proc import run_runner
from advisor.facts.plan import Settings

ENV: Final = "llama.cpp-vulkan"
STEP: Final = "offload"
_DEADLINE_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Text:
    """What to score: a file, and how many pieces of how many tokens; the second half of each piece is scored."""

    path: Path
    chunks: int = 1
    chunk_tokens: int = 128


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load took.

    Attributes:
        buffers: bytes by device name of the engine (``Vulkan0`` ...) or ``host``, and by ``weights``, ``kv``,
            ``state``, ``compute`` and ``output``; true to 5.3 kB a buffer. Of a dry load to the byte, with ``state``
            in ``kv``.
        offloaded: layers on devices, the output matrix counted as one.
        layers: how many there are, counted so; ``None`` where the engine sees no device.
        address_space_bytes: the most that loading took beyond libraries and drivers.
        perplexity: of the text, if one was given.
        logprobs: of each scored token, in order.
        devices: the accelerators that the engine sees.
    """

    buffers: dict[str, dict[str, int]]
    offloaded: int
    layers: int | None
    address_space_bytes: int
    perplexity: float | None = None
    logprobs: tuple[float, ...] = ()
    devices: tuple[dict[str, Any], ...] = ()

    def on_device(self, index: int = 0) -> int:
        """Bytes of all of the engine's buffers on the device of that number."""
        if index >= len(self.devices):
            return 0
        return sum(self.buffers.get(str(self.devices[index]["name"]), {}).values())


@dataclass(frozen=True, slots=True)
class Offload:
    """Loads in processes of the environment ``llama.cpp-vulkan``; what the engine says goes to ``log``.

    Attributes:
        variables: environment variables of those processes, such as ``GGML_VK_VISIBLE_DEVICES``.
    """

    env: Env
    log: Path
    cancel: Cancel | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def load(
        self,
        path: Path,
        settings: Settings,
        *,
        limit_bytes: int | None = None,
        kv_on_device: bool = True,
        text: Text | None = None,
    ) -> Loaded:
        """Load the GGUF file ``path`` as ``settings`` say, look, and let it go again.

        Args:
            path: the file.
            settings: layers and experts on devices, context, cache, batches, load mode.
            limit_bytes: what the process may take beyond libraries and drivers.
            kv_on_device: the cache of a layer lies with the layer.
            text: scored where given.

        Raises:
            AdvisorError: ``out-of-memory`` (``data.finding`` names what ran out, the hint what to do about it),
                ``artifact-invalid``, ``env-failed``, ``step-failed``, ``interrupted``.
        """
        request: dict[str, Any] = {
            "path": str(path),
            "settings": {**_sizes(settings), "kv_on_device": kv_on_device},
            "limit_bytes": limit_bytes,
        }
        if text is not None:
            request |= {"text": str(text.path), "chunks": text.chunks, "chunk_tokens": text.chunk_tokens}
        return self._run(request, settings)

    def dry(self, path: Path, settings: Settings) -> Loaded:
        """What ``load`` would allocate, without reading weights or allocating anything: a tenth of a second's work.

        Raises:
            AdvisorError: as ``load``, but for memory that lacks.
        """
        return self._run({"path": str(path), "settings": {**_sizes(settings), "dry": True}}, settings)

    def _run(self, request: dict[str, Any], settings: Settings) -> Loaded:
        try:
            got = run_runner(
                self.env,
                "offload.py",
                request,
                step=STEP,
                cancel=self.cancel,
                log=self.log,
                timeout_s=_DEADLINE_S,
                threads=settings.threads,
                # Under a limit of address space the allocator must not reserve 64 MiB for each thread.
                variables={"MALLOC_ARENA_MAX": "1", **self.variables},
            )
        except AdvisorError as e:
            raise _explained(e) from e
        return Loaded(
            buffers=got["buffers"],
            offloaded=int(got["offloaded"]),
            layers=got["layers"],
            address_space_bytes=int(got["address_space_bytes"]),
            perplexity=got["perplexity"],
            logprobs=tuple(got["logprobs"]),
            devices=tuple(got["devices"]),
        )


def _sizes(settings: Settings) -> dict[str, Any]:
    return {
        "gpu_layers": settings.gpu_layers,
        "cpu_moe_layers": settings.cpu_moe_layers,
        "tensor_split": settings.tensor_split,
        "load_mode": settings.load_mode,
        "context": settings.context,
        "parallel": settings.parallel,
        "batch": settings.batch,
        "ubatch": settings.ubatch,
        "kv_type": settings.kv_type,
        "threads": settings.threads,
    }


def _explained(error: AdvisorError) -> AdvisorError:
    """A failure for lack of memory with what the runtime's own table of failures makes of its last lines."""
    if error.code not in ("out-of-memory", "step-failed"):
        return error
    from advisor.backends.registry import runtime

    finding = runtime("llama.cpp").diagnose("\n".join(error.context))
    if finding is None or finding.code not in ("out-of-memory", "device-out-of-memory", "context-too-large"):
        return error
    return AdvisorError(
        "out-of-memory",
        finding.message,
        context=error.context,
        hint=finding.remedy,
        data={**(error.data or {}), "finding": finding.code},
    )
