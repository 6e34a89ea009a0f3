"""MLX LM's server on Apple silicon: the command for people; advisor does not install it."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import Command, RuntimeCapabilities, ServeRequest
from advisor.backends.declared import DeclaredRuntime
from advisor.backends.diagnose import known
from advisor.errors import AdvisorError

_FAILURES: Final = (
    known(
        r"Model type \S{1,60} not supported",
        "unknown-architecture",
        "MLX LM does not know the architecture: {0}",
        "advisor recommend MODEL --runtime llama.cpp",
    ),
    known(
        r"kIOGPUCommandBufferCallbackErrorOutOfMemory|\[METAL\].{0,80}Insufficient Memory",
        "out-of-memory",
        "Metal had too little memory: {0}",
        "advisor recommend MODEL --goal smallest-memory",
    ),
    known(r"Address already in use", "port-taken", "The port is in use: {0}", "advisor up MODEL --port 8081"),
)


def options(*, model: str, host: str, port: int) -> tuple[str, ...]:
    """The server's options. The cache grows with the conversation; there is no option for its size.

    Source: MLX LM, ``mlx_lm/SERVER.md``.
    """
    return ("--model", model, "--host", host, "--port", str(port))


class Mlx(DeclaredRuntime):
    """``mlx_lm.server``; its list of models answers once it listens."""

    def serve(self, request: ServeRequest) -> Command:
        """The server's command; this machine alone may reach it, since it knows no key.

        Raises:
            AdvisorError: ``not-available`` where a key is asked for.
        """
        if request.api_key_file is not None:
            raise AdvisorError(
                "not-available",
                "MLX LM's server knows no key; it serves this machine alone.",
                hint="advisor up MODEL --runtime mlx --host 127.0.0.1",
            )
        own = options(model=request.model_path, host=request.host, port=request.port)
        return Command(argv=(request.python, "-I", "-m", "mlx_lm.server", *own), env={"HF_HUB_OFFLINE": "1"})


BACKEND: Final = Mlx(
    RuntimeCapabilities(
        name="mlx",
        methods={"none": ("bf16", "f16")},
        devices=("apple",),
        executable=False,
        needs={"apple": ("mlx-lm in an environment of its own (pip install mlx-lm)",)},
    ),
    health_path="/v1/models",
    failures=_FAILURES,
)
