"""llama.cpp: its own server, out of a prebuilt wheel, on the CPU."""

from __future__ import annotations

from typing import Final

from advisor.backends.answers import says_ok
from advisor.backends.base import Command, RuntimeCapabilities, ServeRequest
from advisor.backends.diagnose import first, known
from advisor.facts.results import Finding
from advisor.facts.words import GGUF_FORMATS, GGUF_SERVED

ENV: Final = "llama.cpp"
RUNNER: Final = "serve_llama.py"

_FAILURES: Final = (
    known(
        r"error: .{0,200}cannot be bound|couldn't bind (to )?(HTTP )?server socket|Address already in use",
        "port-taken",
        "The port is in use: {0}",
        "advisor up MODEL --port 8081",
    ),
    known(
        r"error: the key file|error: there is no file",
        "file-missing",
        "A file that the server was given is not there: {0}",
        "advisor up MODEL --restart",
    ),
    known(
        r"unknown model architecture",
        "unknown-architecture",
        "This llama.cpp does not know the model's architecture: {0}",
        "advisor recommend MODEL --runtime vllm",
    ),
    known(
        r"unknown pre-tokenizer type",
        "unknown-tokenizer",
        "This llama.cpp does not know the model's tokenizer: {0}",
        "advisor recommend MODEL --runtime vllm",
    ),
    known(
        r"invalid magic characters|bad magic",
        "not-gguf",
        "The file is not a GGUF file: {0}",
        "Make it again: advisor quantize MODEL",
    ),
    known(
        r"data is not within the file bounds|model is corrupted or incomplete|failed to read key-value pairs|"
        r"failed to read tensor (info|data)|tensor .{0,80} not found|missing tensor",
        "file-incomplete",
        "The file is cut off or damaged: {0}",
        "Make or fetch it again: advisor quantize MODEL",
    ),
    known(
        r"failed to allocate (CUDA|ROCm|Vulkan|SYCL)_Host buffer",
        "out-of-memory",
        "There was not enough host memory for what the device shares with the host: {0}",
        "advisor recommend MODEL --goal smallest-memory",
    ),
    known(
        r"(unable|failed) to allocate (CUDA|ROCm|Vulkan|Metal|MTL|SYCL)\d* buffer|ErrorOutOfDeviceMemory|"
        r"exceeds device buffer size limit|Device memory allocation of size|cudaMalloc failed: out of memory",
        "device-out-of-memory",
        "The device has too little memory: {0}",
        "Put fewer layers on it, or take a smaller context: advisor recommend MODEL --context 4096",
        "000 section 7",
    ),
    known(
        r"failed to allocate buffer for kv cache|failed to allocate .{0,40}(KV|kv)[ _]cache|"
        r"failed to initialize the context.{0,120}(alloc|memory)",
        "context-too-large",
        "The KV cache of the context does not fit: {0}",
        "advisor up MODEL --context 4096",
    ),
    known(
        r"std::bad_alloc|unable to allocate CPU\S* buffer|ggml_aligned_malloc: insufficient memory|"
        r"alloc_tensor_range: failed to allocate|failed to mmap|Cannot allocate memory|out of memory|"
        r"GGML_ASSERT\(ctx->mem_buffer != NULL\)|(ended by|signal) SIGKILL|exit status 137",
        "out-of-memory",
        "There was not enough memory: {0}",
        "advisor recommend MODEL --goal smallest-memory",
        "002 section 27.8.3",
    ),
    known(
        r"Illegal instruction|SIGILL|AMX is not ready|exit status 132",
        "illegal-instruction",
        "This build of llama.cpp was made for another processor: {0}",
        "advisor env doctor",
    ),
    known(
        r"GLIBC_\d+\.\d+'? not found|GLIBCXX_\S+ not found|cannot open shared object file",
        "library-missing",
        "The build needs a newer system library than this machine has: {0}",
        "advisor env doctor",
    ),
    known(
        r"V cache quantization requires flash_attn|has no type .{0,40}for the KV cache|Unsupported cache type",
        "kv-type",
        "The KV cache cannot have that type here: {0}",
        "advisor up MODEL --kv-type f16",
    ),
    known(
        r"mlock.{0,80}(failed|RLIMIT_MEMLOCK)",
        "mlock-limit",
        "The system does not let the server lock that much memory: {0}",
        "Raise the limit (ulimit -l), or let the plan load with mmap.",
    ),
    known(
        r"llama.cpp does not start|failed to load model|exiting due to model loading error",
        "load-failed",
        "llama.cpp does not load the model: {0}",
        "advisor verify ARTIFACT",
    ),
)


class LlamaCpp:
    """llama.cpp's server from the environment ``llama.cpp``."""

    name = "llama.cpp"
    health_path = "/health"
    runner: str | None = RUNNER

    def capabilities(self) -> RuntimeCapabilities:
        """GGUF of every format; on the CPU with nothing to install first, on devices with a build for them."""
        own = "put its llama-server on PATH"
        return RuntimeCapabilities(
            name=self.name,
            methods={"gguf": (*GGUF_FORMATS, *GGUF_SERVED)},
            devices=("cpu", "nvidia", "amd", "intel", "apple", "mixed"),
            executable=True,
            needs={
                "cpu": (),
                "nvidia": (f"a CUDA or Vulkan build of llama.cpp: {own}",),
                "amd": (f"a ROCm or Vulkan build of llama.cpp: {own}",),
                "intel": (f"a SYCL or Vulkan build of llama.cpp: {own}",),
                "mixed": (f"a Vulkan build of llama.cpp, which drives devices of several makers together: {own}",),
                "apple": (f"a Metal build of llama.cpp: {own}",),
            },
            min_compute_capability={"gguf": 5.0},
            env=ENV,
        )

    def serve(self, request: ServeRequest) -> Command:
        """The command of ``runner`` (serve_llama.py); every value of the plan is named, none left to a default."""
        settings = request.settings
        argv = [request.python, "-I", "-X", "utf8", request.runner]
        argv += ["--model", request.model_path, "--alias", request.model_name]
        argv += ["--host", request.host, "--port", str(request.port)]
        argv += ["--context", str(settings.context), "--parallel", str(settings.parallel)]
        argv += ["--batch", str(settings.batch), "--ubatch", str(settings.ubatch)]
        argv += ["--kv-type", settings.kv_type, "--gpu-layers", str(settings.gpu_layers)]
        argv += ["--load-mode", settings.load_mode or "auto"]
        if settings.threads is not None:
            argv += ["--threads", str(settings.threads), "--threads-batch", str(settings.threads)]
        if settings.tensor_split:
            argv += ["--tensor-split", ",".join(f"{s:g}" for s in settings.tensor_split)]
        if settings.cpu_moe_layers:
            argv += ["--cpu-moe-layers", str(settings.cpu_moe_layers)]
        if request.api_key_file is not None:
            argv += ["--api-key-file", request.api_key_file]
        argv.append("--metrics")
        return Command(argv=tuple(argv), env={"GGML_NO_BACKTRACE": "1", "PYTHONUNBUFFERED": "1"})

    def ready(self, status: int, body: bytes) -> bool:
        """``/health`` answers 200 and ``{"status": "ok"}`` once the model is loaded, 503 before."""
        return says_ok(status, body)

    def diagnose(self, log_tail: str) -> Finding | None:
        """The known failure that a log tail shows."""
        return first(_FAILURES, log_tail)


BACKEND: Final = LlamaCpp()
