"""ExLlamaV2 and V3 behind TabbyAPI's OpenAI server: the command for people; advisor does not install it."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from advisor.backends.base import Command, RuntimeCapabilities, ServeRequest
from advisor.backends.declared import DeclaredRuntime
from advisor.backends.diagnose import CUDA, known
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings

_CACHE: Final = {"f16": "FP16", "bf16": "FP16", "q8_0": "Q8", "q4_0": "Q4"}
_PAGE: Final = 256  # TabbyAPI takes cache sizes in steps of this many tokens
_FAILURES: Final = (
    known(
        r"Insufficient VRAM|not enough (memory|VRAM) in split",
        "out-of-memory",
        "The devices have too little memory for the split: {0}",
        "advisor recommend MODEL --goal smallest-memory",
    ),
    known(
        r"cache_size .{0,80}(multiple of 256|less than max_seq_len)",
        "context-too-large",
        "The cache cannot have that size: {0}",
        "advisor up MODEL --context 4096",
    ),
    known(
        r"address already in use|Port \d+ is (currently )?in use",
        "port-taken",
        "The port is in use: {0}",
        "advisor up MODEL --port 8081",
    ),
    known(
        r"Unknown architecture|architecture .{0,60} (not|is) (currently )?(un)?supported",
        "unknown-architecture",
        "ExLlama does not know the architecture: {0}",
        "advisor recommend MODEL --runtime vllm",
    ),
    *CUDA,
)


def options(settings: Settings, *, model: str, host: str, port: int) -> tuple[str, ...]:
    """TabbyAPI's options. The cache holds the context of all slots; it loads only from its own model folder.

    Source: TabbyAPI, ``common/config_models.py`` (every field is an option) and ``common/args.py``.

    Raises:
        AdvisorError: ``not-available`` for a type of the KV cache that ExLlamaV2 lacks.
    """
    if settings.kv_type not in _CACHE:
        raise AdvisorError(
            "not-available",
            f"ExLlamaV2 has no KV cache of type {settings.kv_type}; it has {', '.join(sorted(_CACHE))}.",
            hint="advisor up MODEL --kv-type f16",
        )
    path = PurePath(model)
    each = max(1, settings.context // max(1, settings.parallel))
    argv = ["--host", host, "--port", str(port)]
    argv += ["--model-dir", str(path.parent), "--model-name", path.name]
    argv += ["--max-seq-len", str(each), "--cache-size", str(-(-settings.context // _PAGE) * _PAGE)]
    argv += ["--cache-mode", _CACHE[settings.kv_type], "--max-batch-size", str(settings.parallel)]
    argv += ["--chunk-size", str(settings.batch)]
    if settings.tensor_parallel > 1:
        argv += ["--tensor-parallel", "true"]
    return tuple(argv)


class ExLlama(DeclaredRuntime):
    """TabbyAPI over ExLlama."""

    def serve(self, request: ServeRequest) -> Command:
        """``python main.py`` of TabbyAPI's folder, which has to be the working folder.

        A key is its own affair: it makes one in ``api_tokens.yml`` at its first start. On this machine alone none is
        asked for.

        Raises:
            AdvisorError: ``not-available`` for a type of the KV cache that it lacks.
        """
        argv = (request.python, "main.py")
        own = options(request.settings, model=request.model_path, host=request.host, port=request.port)
        auth = ("--disable-auth", "true") if request.api_key_file is None else ()
        return Command(argv=(*argv, *own, *auth), env={"PYTHONUNBUFFERED": "1"})


BACKEND: Final = ExLlama(
    RuntimeCapabilities(
        name="exllama",
        methods={"gptq": ("w4a16-g128", "w4a16-g64", "w4a16-g32")},
        devices=("nvidia",),
        executable=False,
        needs={"nvidia": ("ExLlamaV2 and TabbyAPI in an environment of their own", "a CUDA toolkit")},
    ),
    health_path="/health",
    failures=_FAILURES,
)
