"""text-generation-webui: the command for people; advisor does not install it."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from advisor.backends.base import Command, RuntimeCapabilities, ServeRequest
from advisor.backends.declared import DeclaredRuntime
from advisor.backends.diagnose import CUDA, known
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings
from advisor.facts.words import GGUF_FORMATS

# How its llama.cpp loader calls types of the cache.
_CACHE: Final = {"f16": "fp16", "q8_0": "q8_0", "q4_0": "q4_0"}
_AT_LOAD: Final = {"nf4": ("--load-in-4bit", "--quant_type", "nf4"), "int8": ("--load-in-8bit",)}
_FAILURES: Final = (
    known(
        r"The model could not be loaded because its type could not be inferred|could not determine the loader",
        "load-failed",
        "text-generation-webui finds no loader for the model: {0}",
        "advisor recommend MODEL --runtime llama.cpp",
    ),
    known(r"[Aa]ddress already in use", "port-taken", "The port is in use: {0}", "advisor up MODEL --port 8081"),
    *CUDA,
)


def options(settings: Settings, *, model: str, port: int, method: str) -> tuple[str, ...]:
    """Options of ``server.py``, its API without the page. It loads only from its own model folder.

    Source: text-generation-webui, ``modules/shared.py``.

    Raises:
        AdvisorError: ``not-available`` for a type of the KV cache that it lacks.
    """
    path = PurePath(model)
    argv = ["--api", "--nowebui", "--api-port", str(port), "--model-dir", str(path.parent), "--model", path.name]
    if method != "gguf":
        loader = "ExLlamav2" if method == "gptq" else "Transformers"
        return (*argv, "--loader", loader, *_AT_LOAD.get(method, ()))
    if settings.kv_type not in _CACHE:
        raise AdvisorError(
            "not-available",
            f"text-generation-webui has no KV cache of type {settings.kv_type}; it has {', '.join(sorted(_CACHE))}.",
            hint="advisor up MODEL --kv-type f16",
        )
    argv += ["--loader", "llama.cpp", "--ctx-size", str(settings.context), "--gpu-layers", str(settings.gpu_layers)]
    argv += ["--batch-size", str(settings.batch)]
    argv += ["--threads", str(settings.threads)] if settings.threads is not None else []
    argv += ["--cache-type", _CACHE[settings.kv_type]] if settings.kv_type != "f16" else []
    if settings.tensor_split:
        argv += ["--tensor-split", ",".join(f"{x:g}" for x in settings.tensor_split)]
    return tuple(argv)


class Textgen(DeclaredRuntime):
    """``server.py`` of text-generation-webui's folder, which has to be the working folder."""

    def serve(self, request: ServeRequest) -> Command:
        """The command; this machine alone may reach it, since it takes a key in its argument list only.

        Raises:
            AdvisorError: ``not-available`` where a key is asked for, or for a type of the KV cache that it lacks.
        """
        if request.api_key_file is not None:
            raise AdvisorError(
                "not-available",
                "text-generation-webui takes its key in the argument list, where every user of the machine reads it.",
                hint="advisor up MODEL --runtime textgen --host 127.0.0.1",
            )
        own = options(request.settings, model=request.model_path, port=request.port, method=request.method)
        return Command(argv=(request.python, "server.py", *own), env={"PYTHONUNBUFFERED": "1"})


_OWN: Final = "text-generation-webui in a folder of its own"

BACKEND: Final = Textgen(
    RuntimeCapabilities(
        name="textgen",
        methods={
            "gguf": GGUF_FORMATS,
            "gptq": ("w4a16-g128", "w4a16-g64", "w4a16-g32"),
            "none": ("bf16", "f16"),
            "nf4": ("nf4",),
            "int8": ("int8",),
        },
        devices=("cpu", "nvidia", "amd", "intel", "apple"),
        executable=False,
        needs={
            "cpu": (_OWN,),
            "nvidia": (_OWN, "an NVIDIA driver that its CUDA build supports"),
            "amd": (_OWN, "a ROCm driver"),
            "intel": (_OWN, "a Vulkan driver"),
            "apple": (_OWN,),
        },
    ),
    health_path="/v1/models",
    failures=_FAILURES,
)
