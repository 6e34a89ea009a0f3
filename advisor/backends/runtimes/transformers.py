"""transformers: 16-bit checkpoints, and NF4, INT8 and HQQ, saved or quantized at load, behind a server of our own."""

from __future__ import annotations

from typing import Final

from advisor.backends.answers import says_ok
from advisor.backends.base import ANY_FORMAT, Command, RuntimeCapabilities, ServeRequest
from advisor.backends.diagnose import CUDA, first, known
from advisor.errors import AdvisorError
from advisor.facts.results import Finding

ENV: Final = "transformers"
RUNNER: Final = "serve_transformers.py"
_FLOATS: Final = ("bf16", "f16", "f32")

_FAILURES: Final = (
    known(
        r"error: .{0,200}cannot be bound|Address already in use",
        "port-taken",
        "The port is in use: {0}",
        "advisor up MODEL --port 8081",
    ),
    known(
        r"\[file-unreadable\] the key file|\[file-not-found\]",
        "file-missing",
        "A file that the server was given is not there: {0}",
        "advisor up MODEL --restart",
    ),
    known(
        r"\[pickle-refused\]|no file named model\.safetensors",
        "pickle-refused",
        "The weights are pickles, which can run code when they are read: {0}",
        "Take a release with safetensors files: advisor recommend MODEL",
    ),
    known(
        r"requires you to execute the .{0,80}file in that repo|trust_remote_code=True",
        "remote-code-refused",
        "The model wants to run code of its own: {0}",
        "Take a model of an architecture that transformers has: advisor recommend MODEL",
    ),
    known(
        r"does not recognize this architecture|Unrecognized configuration class|Unrecognized model in",
        "unknown-architecture",
        "This transformers does not know the model's architecture: {0}",
        "advisor up MODEL --runtime llama.cpp",
    ),
    known(
        r"\[missing-part\]|SafetensorError|incomplete metadata, file not fully covered|MetadataIncompleteBuffer",
        "file-incomplete",
        "The checkpoint is cut off or damaged: {0}",
        "Make or fetch it again: advisor verify ARTIFACT",
    ),
    known(
        r"\[illegal-recipe\]",
        "illegal-recipe",
        "The model cannot be quantized that way: {0}",
        "advisor recommend MODEL",
    ),
    known(
        r"\[runtime-unfit\] Checkpoints quantized by",
        "format-unknown",
        "The runtime does not load this quantization: {0}",
        "Take a runtime that does: advisor recommend MODEL",
    ),
    known(
        r"\[runtime-unfit\] torch .{0,80} sees no device|Torch not compiled with CUDA enabled",
        "device-missing",
        "torch does not see the device: {0}",
        "advisor env doctor",
    ),
    known(
        r"libbitsandbytes_\w+\.(so|dll|dylib)|bitsandbytes library load error|"
        r"No kernel registered for .{0,80}bitsandbytes|Could not run 'bitsandbytes::|"
        r"requires the latest version of bitsandbytes",
        "kernels-missing",
        "bitsandbytes has no kernels for this machine: {0}",
        "advisor env doctor",
    ),
    known(
        r"CUDA out of memory|HIP out of memory|MPS backend out of memory|torch\.OutOfMemoryError",
        "device-out-of-memory",
        "The device has too little memory: {0}",
        "Take a smaller format or context: advisor recommend MODEL --goal smallest-memory",
        "002 section 27.8.3",
    ),
    known(
        r"DefaultCPUAllocator: .{0,60}allocate memory|Cannot allocate memory|^MemoryError|std::bad_alloc|"
        r"(ended by|signal) SIGKILL|exit status 137|out_of_memory",
        "out-of-memory",
        "There was not enough memory: {0}",
        "advisor recommend MODEL --goal smallest-memory",
        "002 section 27.8.3",
    ),
    known(
        r"400 context_length_exceeded",
        "context-exceeded",
        "A request is longer than the context: {0}",
        "advisor up MODEL --context 8192",
    ),
    known(
        r"400 no_chat_template",
        "no-chat-template",
        "The model has no chat template, so it answers plain completions only: {0}",
        "Ask /v1/completions, or take an instruct release of the model.",
    ),
    *CUDA,
    known(
        r"error: \[load-failed\]",
        "load-failed",
        "transformers does not load the model: {0}",
        "advisor verify ARTIFACT",
    ),
)


class Transformers:
    """transformers in its environment, behind an OpenAI-compatible server that answers one request at a time."""

    name = ENV
    health_path = "/health"
    runner: str | None = RUNNER

    def capabilities(self) -> RuntimeCapabilities:
        """16 bits, NF4, INT8 and HQQ, on the CPU with nothing to install first.

        GPTQ and AWQ are not among them: transformers 5.23 loads both with gptqmodel only, which is not installed
        beside it.
        """
        return RuntimeCapabilities(
            name=self.name,
            methods={"none": ("bf16", "f16"), "nf4": ("nf4",), "int8": ("int8",), "hqq": (ANY_FORMAT,)},
            devices=("nvidia", "amd", "intel", "apple", "cpu"),
            executable=True,
            needs={
                "cpu": (),
                "nvidia": (),
                "amd": ("a ROCm build of torch",),
                "intel": ("an XPU build of torch",),
                "apple": ("macOS 14 or later, for torch's Metal backend",),
            },
            # bitsandbytes, installation guide, table of NVIDIA devices: NF4 from Pascal, LLM.int8() from Turing on.
            min_compute_capability={"nf4": 6.0, "int8": 7.5, "bf16": 8.0},
            env=ENV,
        )

    def serve(self, request: ServeRequest) -> Command:
        """The command of ``runner`` (serve_transformers.py).

        One request is answered at a time, so each may take ``context / parallel`` tokens.

        Raises:
            AdvisorError: ``not-available`` for a quantized KV cache.
        """
        settings = request.settings
        if settings.kv_type not in _FLOATS:
            raise AdvisorError(
                "not-available",
                f"transformers keeps its KV cache in 16 bits here, not in {settings.kv_type}.",
                hint="advisor up MODEL --runtime transformers --kv-type f16",
                data={"kv_type": settings.kv_type},
            )
        argv = [request.python, "-I", "-X", "utf8", request.runner]
        argv += ["--model", request.model_path, "--alias", request.model_name]
        argv += ["--host", request.host, "--port", str(request.port)]
        argv += ["--context", str(settings.context // max(settings.parallel, 1))]
        argv += ["--batch", str(settings.ubatch), "--device", request.device]
        # A processor computes in bfloat16: six times faster through a prompt than in float16, where it has the units.
        named = request.method == "none" and request.format in _FLOATS and request.device != "cpu"
        argv += ["--dtype", request.format if named else "auto"]
        if request.recipe is not None and request.recipe.at_load:
            argv += ["--recipe", request.recipe.dumps().decode()]
        if settings.threads is not None:
            argv += ["--threads", str(settings.threads)]
        if request.api_key_file is not None:
            argv += ["--api-key-file", request.api_key_file]
        return Command(argv=tuple(argv), env=_environment(settings.threads))

    def ready(self, status: int, body: bytes) -> bool:
        """``/health`` answers 200 and ``{"status": "ok"}`` once the model is loaded and made a token, 503 before."""
        return says_ok(status, body)

    def diagnose(self, log_tail: str) -> Finding | None:
        """The known failure that a log tail shows."""
        return first(_FAILURES, log_tail)


def _environment(threads: int | None) -> dict[str, str]:
    """Variables of the process.

    OpenMP's threads sleep while they wait for each other: spinning ones lose their time slices to other processes, and
    a busy machine then decodes many times slower.
    """
    own = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    own |= {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**own, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}


BACKEND: Final = Transformers()
