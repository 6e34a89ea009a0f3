"""llama-cpp-python: the binding's own server over llama.cpp, compiled at set-up, on the CPU."""

from __future__ import annotations

from typing import Final

from advisor.backends.answers import lists_models
from advisor.backends.base import Command, RuntimeCapabilities, ServeRequest
from advisor.backends.diagnose import first, known
from advisor.backends.runtimes.llama_cpp import BACKEND as LLAMA
from advisor.errors import AdvisorError
from advisor.facts.results import Finding
from advisor.facts.words import GGUF_FORMATS, GGUF_SERVED

ENV: Final = "llama-cpp-python"
RUNNER: Final = "serve_llama_python.py"

_FAILURES: Final = (
    known(
        r"Failed building wheel for llama.cpp.python|CMake Error|ninja: build stopped",
        "build-failed",
        "llama-cpp-python does not compile: {0}",
        "advisor up MODEL --runtime llama.cpp",
    ),
    known(
        r"Requested tokens .{0,40} exceed context window",
        "context-exceeded",
        "A request is longer than the context: {0}",
        "advisor up MODEL --context 8192",
    ),
    known(
        r"Failed to load model from file|Failed to create llama_context",
        "load-failed",
        "llama.cpp does not load the model: {0}",
        "advisor verify ARTIFACT",
    ),
)


class LlamaCppPython:
    """The server of the binding, out of its own environment; it has no health route, so the list of models is asked."""

    name = ENV
    health_path = "/v1/models"
    runner: str | None = RUNNER

    def capabilities(self) -> RuntimeCapabilities:
        """GGUF of every format, on the CPU; it needs a C and C++ compiler at set-up."""
        return RuntimeCapabilities(
            name=self.name,
            methods={"gguf": (*GGUF_FORMATS, *GGUF_SERVED)},
            devices=("cpu",),
            executable=True,
            needs={"cpu": ()},
            env=ENV,
        )

    def serve(self, request: ServeRequest) -> Command:
        """The command that serves ``model_path``; one request at a time, whatever ``parallel`` says.

        Raises:
            AdvisorError: ``not-available`` for layers on a device: this build has none.
        """
        if request.settings.gpu_layers != 0:
            raise AdvisorError(
                "not-available",
                "llama-cpp-python is compiled for the CPU here; it puts no layers on a device.",
                hint="advisor up --runtime llama.cpp",
            )
        settings = request.settings
        argv = [request.python, "-I", "-X", "utf8", request.runner]
        argv += ["--model", request.model_path, "--alias", request.model_name]
        argv += ["--host", request.host, "--port", str(request.port), "--context", str(settings.context)]
        argv += ["--batch", str(settings.batch), "--ubatch", str(min(settings.ubatch, settings.batch))]
        argv += ["--kv-type", settings.kv_type, "--load-mode", settings.load_mode or "auto"]
        argv += ["--threads", str(settings.threads)] if settings.threads is not None else []
        argv += ["--api-key-file", request.api_key_file] if request.api_key_file is not None else []
        return Command(argv=tuple(argv), env={"GGML_NO_BACKTRACE": "1", "PYTHONUNBUFFERED": "1"})

    def ready(self, status: int, body: bytes) -> bool:
        """``/v1/models`` answers 200 with a list that is not empty; the socket opens only once the model is loaded."""
        return lists_models(status, body)

    def diagnose(self, log_tail: str) -> Finding | None:
        """The known failure that a log tail shows; the engine's own are those of llama.cpp."""
        return first(_FAILURES, log_tail) or LLAMA.diagnose(log_tail)


BACKEND: Final = LlamaCppPython()
