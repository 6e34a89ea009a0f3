"""LM Studio: the commands for people; the program is the user's own."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import RuntimeCapabilities
from advisor.backends.declared import DeclaredRuntime
from advisor.backends.diagnose import known
from advisor.facts.plan import Settings
from advisor.facts.words import GGUF_FORMATS

INSTALLED: Final = "LM Studio, run at least once (its command lms comes with it)"
_FAILURES: Final = (
    known(
        r"insufficient system resources|model loading was stopped|likely overload",
        "out-of-memory",
        "LM Studio takes the model to be too large for this machine: {0}",
        "advisor recommend MODEL --goal smallest-memory",
    ),
    known(r"EADDRINUSE", "port-taken", "The port is in use: {0}", "advisor up MODEL --port 8081"),
)


def commands(settings: Settings, *, model: str, layers: int, port: int) -> tuple[tuple[str, ...], ...]:
    """Import the file, load it, serve it. The share on the device is that of the plan's layers; of each slot's context
    and the type of the cache LM Studio is told in its own window.

    Args:
        layers: the model's layers, the output matrix counted as one.

    Source: LM Studio's documentation, ``lms load`` and ``lms server start``.
    """
    share = min(settings.gpu_layers / max(layers, 1), 1.0)
    gpu = "off" if settings.gpu_layers == 0 else "max" if share == 1 else f"{share:.2f}"
    return (
        ("lms", "import", model),
        ("lms", "load", "<NAME>", "--gpu", gpu, "--context-length", str(settings.context)),
        ("lms", "server", "start", "--port", str(port)),
    )


BACKEND: Final = DeclaredRuntime(
    RuntimeCapabilities(
        name="lmstudio",
        methods={"gguf": GGUF_FORMATS},
        devices=("cpu", "nvidia", "amd", "intel", "apple"),
        executable=False,
        needs={
            "cpu": (INSTALLED,),
            "nvidia": (INSTALLED, "an NVIDIA driver"),
            "amd": (INSTALLED, "a Vulkan or ROCm driver"),
            "intel": (INSTALLED, "a Vulkan driver"),
            "apple": (INSTALLED,),
        },
    ),
    health_path="/v1/models",
    failures=_FAILURES,
)
