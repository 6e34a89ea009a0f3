"""The options that vLLM's server is started with: the same for the command that is run and for the one that is shown.

Everything that decides memory, what is loaded and what leaves the machine is named, none of it left to a default:
vLLM on a CPU would otherwise take 92 % of the machine's memory for its KV cache.
"""

from __future__ import annotations

from typing import Final

from advisor.errors import AdvisorError
from advisor.facts.plan import Settings

UTILIZATION: Final = 0.92
MODULE: Final = "vllm.entrypoints.openai.api_server"
# Only pages of this machine may ask from a browser.
ORIGINS: Final = '["http://localhost"]'
# Splitting the cache of one request among threads pays where there are more of them than heads. With few it makes them
# wait for each other at every layer: at 550 tokens of context, 2 threads made 9 tokens a second with it and 25 without.
FEW_THREADS: Final = 8
_DTYPES: Final = {"bf16": "bfloat16", "f16": "float16"}
_PLAIN_KV: Final = ("f16", "bf16")
_FP8_KV: Final = ("fp8", "fp8_e4m3", "fp8_e5m2")
_QUIET: Final = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


def kv_type(name: str) -> str:
    """vLLM's word for the type of the KV cache; 16 bits are "as the model".

    Raises:
        AdvisorError: ``not-available`` for a type of llama.cpp's that vLLM lacks.
    """
    if name in _PLAIN_KV:
        return "auto"
    if name in _FP8_KV:
        return name
    raise AdvisorError(
        "not-available",
        f"vLLM has no KV cache of type {name}; it has f16 and {', '.join(_FP8_KV)}.",
        hint="advisor up MODEL --runtime vllm --kv-type f16",
        data={"kv_type": name},
    )


def dtype(fmt: str, device: str) -> str:
    """The type of activations and unquantized weights: what the format says; on a CPU bfloat16, as vLLM advises."""
    return _DTYPES.get(fmt, "bfloat16" if device == "cpu" else "auto")


def memory(settings: Settings, device: str, kv_cache_bytes: int | None) -> list[str]:
    """What bounds the memory. On a CPU the bytes of the KV cache; on a device the share of it that the plan names, or
    else those bytes.

    Raises:
        AdvisorError: ``bad-option`` where neither is known on a CPU.
    """
    kv = ["--kv-cache-memory-bytes", str(kv_cache_bytes)] if kv_cache_bytes is not None else []
    if device == "cpu":
        if not kv:
            raise AdvisorError(
                "bad-option",
                "vLLM sets its KV cache aside when it starts, and on a CPU takes nearly all memory for it unless told "
                "how much; this plan does not say.",
                hint="advisor recommend MODEL --runtime vllm --context 4096",
            )
        return kv
    if settings.gpu_memory_utilization is not None:
        return ["--gpu-memory-utilization", f"{settings.gpu_memory_utilization:g}"]
    return [*kv, "--gpu-memory-utilization", f"{UTILIZATION:g}"]


def options(
    settings: Settings,
    *,
    model: str,
    name: str | None,
    host: str,
    port: int,
    method: str,
    fmt: str,
    device: str,
    kv_cache_bytes: int | None,
    at_load: bool = False,
) -> tuple[str, ...]:
    """The options after vLLM's program name; the first two are ``--model MODEL``.

    ``device``: ``cpu`` or a vendor. ``at_load``: the checkpoint has 16 bits and vLLM quantizes it (NF4).

    Raises:
        AdvisorError: ``not-available`` for a KV type that it lacks, ``bad-option`` where memory would be unbounded.
    """
    each = max(1, settings.context // max(1, settings.parallel))
    argv = ["--model", model]
    argv += ["--served-model-name", name] if name is not None else []
    argv += ["--host", host, "--port", str(port)]
    argv += ["--max-model-len", str(each), "--max-num-seqs", str(settings.parallel)]
    argv += ["--max-num-batched-tokens", str(max(settings.batch, settings.parallel)), "--enable-chunked-prefill"]
    argv += ["--dtype", dtype(fmt, device), "--kv-cache-dtype", kv_type(settings.kv_type)]
    argv += memory(settings, device, kv_cache_bytes)
    argv += ["--tensor-parallel-size", str(settings.tensor_parallel)]
    argv += ["--pipeline-parallel-size", str(settings.pipeline_parallel)]
    if settings.tensor_parallel * settings.pipeline_parallel > 1:
        argv += ["--distributed-executor-backend", "mp"]
    if method == "nf4":
        argv += ["--quantization", "bitsandbytes"] if at_load else []
        argv += ["--load-format", "bitsandbytes"]
    else:
        argv += ["--load-format", "safetensors"]  # never a pickle
    # Measured with SmolLM2-135M on a CPU: compiling took 46 s more of processor time at the start, saved 35 % a token
    # (20 ms), and changed the greedy answer from a right one to a wrong one.
    argv += ["--enforce-eager"] if device == "cpu" else []
    argv += ["--generation-config", "auto", "--no-trust-remote-code"]
    argv += ["--no-enable-log-requests", "--disable-uvicorn-access-log", "--disable-fastapi-docs"]
    argv += ["--allowed-origins", ORIGINS]
    return tuple(argv)


def environment(settings: Settings, device: str) -> dict[str, str]:
    """What is added to the server's environment: nothing is sent anywhere, and on a CPU as many threads as planned.

    vLLM's own choice leaves one core of each rank to its scheduler and binds to fixed cores, which other servers may
    be using: 1 thread on 2 cores. Threads that wait do not spin: with other work on the cores, SmolLM2-135M made 0.4
    tokens a second with spinning threads and 17 to 21 without (2 threads, 2 cores, load of 20 to 30).
    """
    out = {**_QUIET, "VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_LOGGING_LEVEL": "INFO", "PYTHONUNBUFFERED": "1"}
    if device == "cpu":
        out |= threading(settings)
    return out


def threading(settings: Settings) -> dict[str, str]:
    """The variables that decide a CPU's threads."""
    if settings.tensor_parallel > 1:  # a rank a memory node, bound to it
        return {"VLLM_CPU_OMP_THREADS_BIND": "auto"}
    out = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_WAIT_POLICY": "PASSIVE"}
    if settings.threads is not None:
        out["OMP_NUM_THREADS"] = str(settings.threads)
        if settings.threads <= FEW_THREADS:
            out["VLLM_CPU_ATTN_SPLIT_KV"] = "0"
    return out


def by_hand(settings: Settings, device: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The command for people: ``arguments`` are ``options()``. On a CPU with the variables that decide its threads.

    There the module is started: ``vllm serve`` does not work in builds whose package is not called ``vllm``.
    """
    if device != "cpu":
        return ("vllm", "serve", arguments[1], *arguments[2:])
    variables = (f"{name}={value}" for name, value in threading(settings).items())
    return ("env", *variables, "python", "-m", MODULE, *arguments)
