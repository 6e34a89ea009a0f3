"""Text Generation Inference: the command for people; advisor does not install it."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import Command, ServeRequest
from advisor.backends.declared import DeclaredRuntime, gpu_server
from advisor.backends.diagnose import CUDA, known
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings

_KV: Final = {"f16": None, "bf16": None, "fp8": "fp8_e4m3fn", "fp8_e4m3": "fp8_e4m3fn", "fp8_e5m2": "fp8_e5m2"}
_QUANTIZE: Final = {"awq": "awq", "gptq": "gptq", "w8a8": "compressed-tensors", "fp8": "compressed-tensors"}
_DTYPES: Final = {"bf16": "bfloat16", "f16": "float16"}
_FAILURES: Final = (
    known(
        r"Not enough memory to handle .{0,80}(prefill|total) tokens",
        "context-too-large",
        "The memory does not take a batch of that many tokens: {0}",
        "advisor up MODEL --context 4096",
    ),
    known(
        r"`max_input_(tokens|length)` must be < `max_total_tokens`|`max_batch_prefill_tokens` must be",
        "illegal-limits",
        "The limits of tokens contradict each other: {0}",
        "advisor up MODEL --context 4096",
    ),
    known(r"Address already in use", "port-taken", "The port is in use: {0}", "advisor up MODEL --port 8081"),
    known(
        r"Unsupported model type",
        "unknown-architecture",
        "Text Generation Inference does not know the architecture: {0}",
        "advisor recommend MODEL --runtime vllm",
    ),
    *CUDA,
)


def options(
    settings: Settings, *, model: str, host: str, port: int, method: str = "none", fmt: str = ""
) -> tuple[str, ...]:
    """The launcher's options. A prompt may take all of a slot but one token; a batch, the context of all slots.

    Source: Text Generation Inference's documentation, launcher arguments.

    Raises:
        AdvisorError: ``not-available`` for a type of the KV cache that it lacks.
    """
    if settings.kv_type not in _KV:
        raise AdvisorError(
            "not-available",
            f"Text Generation Inference has no KV cache of type {settings.kv_type}; it has {', '.join(sorted(_KV))}.",
            hint="advisor up MODEL --kv-type f16",
        )
    each = max(2, settings.context // max(1, settings.parallel))
    argv = ["--model-id", model, "--hostname", host, "--port", str(port)]
    argv += ["--max-input-tokens", str(each - 1), "--max-total-tokens", str(each)]
    argv += ["--max-batch-prefill-tokens", str(max(settings.batch, each - 1))]
    argv += ["--max-batch-total-tokens", str(settings.context), "--max-batch-size", str(settings.parallel)]
    argv += ["--num-shard", str(settings.tensor_parallel)]
    argv += ["--quantize", _QUANTIZE[method]] if method in _QUANTIZE else ["--dtype", _DTYPES.get(fmt, "bfloat16")]
    kv = _KV[settings.kv_type]
    argv += ["--kv-cache-dtype", kv] if kv is not None else []
    if settings.gpu_memory_utilization is not None:
        argv += ["--cuda-memory-fraction", f"{settings.gpu_memory_utilization:g}"]
    argv += ["--usage-stats", "off"]
    return tuple(argv)


class Tgi(DeclaredRuntime):
    """``text-generation-launcher``."""

    def serve(self, request: ServeRequest) -> Command:
        """The launcher's command; it serves the model under its path. This machine alone may reach it.

        Raises:
            AdvisorError: ``not-available`` where a key is asked for, which it takes from argument list or environment
                only, or for a type of the KV cache that it lacks.
        """
        if request.api_key_file is not None:
            raise AdvisorError(
                "not-available",
                "Text Generation Inference takes its key in the argument list or the environment, never from a file.",
                hint="advisor up MODEL --runtime tgi --host 127.0.0.1",
            )
        own = options(
            request.settings,
            model=request.model_path,
            host=request.host,
            port=request.port,
            method=request.method,
            fmt=request.format,
        )
        env = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        return Command(argv=("text-generation-launcher", *own), env=env)


BACKEND: Final = Tgi(
    gpu_server(
        "tgi",
        {
            "nvidia": ("Text Generation Inference, as its container image", "an NVIDIA driver"),
            "amd": ("Text Generation Inference's ROCm image", "a ROCm driver"),
        },
    ),
    health_path="/health",
    failures=_FAILURES,
)
