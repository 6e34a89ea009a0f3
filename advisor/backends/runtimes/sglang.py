"""SGLang: the command for people; advisor does not install it."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import Command, ServeRequest
from advisor.backends.declared import DeclaredRuntime, gpu_server
from advisor.backends.diagnose import CUDA, known
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings

_KV: Final = {"f16": "auto", "bf16": "auto", "fp8": "fp8_e4m3", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"}
_DTYPES: Final = {"bf16": "bfloat16", "f16": "float16"}
_FAILURES: Final = (
    known(
        r"Not enough memory\. Please try to increase --mem-fraction-static",
        "context-too-large",
        "No room is left for the KV cache: {0}",
        "advisor up MODEL --context 4096",
    ),
    known(
        r"address already in use|port at \d+ is not available",
        "port-taken",
        "The port is in use: {0}",
        "advisor up MODEL --port 8081",
    ),
    known(
        r"Model architectures? .{0,200} (are|is) not supported",
        "unknown-architecture",
        "SGLang does not know the architecture: {0}",
        "advisor recommend MODEL --runtime vllm",
    ),
    *CUDA,
)


def options(
    settings: Settings, *, model: str, name: str | None, host: str, port: int, fmt: str = ""
) -> tuple[str, ...]:
    """SGLang's options: the cache holds as many tokens as the plan says, whatever memory is free.

    Source: SGLang's documentation, server arguments.

    Raises:
        AdvisorError: ``not-available`` for a type of the KV cache that it lacks.
    """
    if settings.kv_type not in _KV:
        raise AdvisorError(
            "not-available",
            f"SGLang has no KV cache of type {settings.kv_type}; it has {', '.join(sorted(_KV))}.",
            hint="advisor up MODEL --kv-type f16",
        )
    each = max(1, settings.context // max(1, settings.parallel))
    argv = ["--model-path", model]
    argv += ["--served-model-name", name] if name is not None else []
    argv += ["--host", host, "--port", str(port), "--context-length", str(each)]
    argv += ["--max-running-requests", str(settings.parallel), "--max-total-tokens", str(settings.context)]
    argv += ["--chunked-prefill-size", str(settings.batch), "--dtype", _DTYPES.get(fmt, "auto")]
    argv += ["--kv-cache-dtype", _KV[settings.kv_type], "--load-format", "safetensors"]
    argv += ["--tp-size", str(settings.tensor_parallel), "--pp-size", str(settings.pipeline_parallel)]
    if settings.gpu_memory_utilization is not None:
        argv += ["--mem-fraction-static", f"{settings.gpu_memory_utilization:g}"]
    return tuple(argv)


class Sglang(DeclaredRuntime):
    """``python -m sglang.launch_server``."""

    def serve(self, request: ServeRequest) -> Command:
        """The server's command; this machine alone may reach it, since it takes a key in its argument list only.

        Raises:
            AdvisorError: ``not-available`` where a key is asked for, or for a type of the KV cache that it lacks.
        """
        if request.api_key_file is not None:
            raise AdvisorError(
                "not-available",
                "SGLang takes its key in the argument list, where every user of the machine can read it.",
                hint="advisor up MODEL --runtime sglang --host 127.0.0.1",
            )
        own = options(
            request.settings,
            model=request.model_path,
            name=request.model_name,
            host=request.host,
            port=request.port,
            fmt=request.format,
        )
        env = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
        return Command(argv=(request.python, "-I", "-m", "sglang.launch_server", *own), env=env)


BACKEND: Final = Sglang(
    gpu_server(
        "sglang",
        {
            "nvidia": ("SGLang in an environment of its own", "an NVIDIA driver that its CUDA build supports"),
            "amd": ("SGLang's ROCm image",),
        },
    ),
    # /health_generate would take a slot of the engine each time.
    health_path="/health",
    failures=_FAILURES,
)
