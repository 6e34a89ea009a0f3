"""Ollama: the user's own daemon serves a GGUF file that advisor made; what is started passes requests on to it."""

from __future__ import annotations

import json
from typing import Final

from advisor.backends import ollama
from advisor.backends.base import Command, RuntimeCapabilities, ServeRequest
from advisor.backends.diagnose import first, known
from advisor.facts.results import Finding
from advisor.facts.words import GGUF_FORMATS, GGUF_SERVED

NAME: Final = "ollama"
RUNNER: Final = "serve_ollama.py"
ENV: Final = "llama.cpp"  # whose Python runs what passes requests on; nothing of Ollama is in it

_FAILURES: Final = (
    known(
        r"requires more system memory|llama runner process .{0,60}(killed|exit status 137)|unable to allocate",
        "out-of-memory",
        "Ollama refuses the model for lack of memory: {0}",
        "advisor recommend MODEL --goal smallest-memory",
    ),
    known(
        r"unsupported architecture|unknown model architecture",
        "unknown-architecture",
        "This Ollama does not know the architecture: {0}",
        "Update Ollama, or: advisor up MODEL --runtime llama.cpp",
    ),
    known(
        r"no space left on device",
        "disk-full",
        "Ollama keeps a copy of the file, for which there is no room: {0}",
        "ollama list  # and `ollama rm` what is not needed",
    ),
    known(
        r"\[daemon-too-old\]",
        "daemon-too-old",
        "This Ollama cannot take a file over its API: {0}",
        "Update Ollama, or: advisor up MODEL --runtime llama.cpp",
    ),
    known(
        r"\[daemon-not-reachable\]",
        "daemon-not-reachable",
        "No Ollama answers: {0}",
        "ollama serve  # or say where it is with OLLAMA_HOST",
    ),
    known(
        r"\[not-ollama\]",
        "not-ollama",
        "What answers at the daemon's address is not Ollama: {0}",
        "OLLAMA_HOST=127.0.0.1:11434 advisor up MODEL --runtime ollama",
    ),
    known(
        r"\[daemon-elsewhere\]",
        "daemon-elsewhere",
        "The daemon is on another machine: {0}",
        "OLLAMA_HOST=127.0.0.1:11434 advisor up MODEL --runtime ollama",
    ),
    known(
        r"\[import-failed\]",
        "import-failed",
        "Ollama does not take the file: {0}",
        "advisor verify ARTIFACT",
    ),
    known(
        r"\[load-failed\]",
        "load-failed",
        "Ollama does not load the model: {0}",
        "advisor up MODEL --runtime llama.cpp",
    ),
    known(
        r"\[file-unreadable\]|\[file-not-found\]|the key file",
        "file-missing",
        "A file that the server was given is not there: {0}",
        "advisor up MODEL --restart",
    ),
    known(
        r"address already in use|cannot be bound",
        "port-taken",
        "The port is in use: {0}",
        "advisor up MODEL --port 8081",
    ),
)


class Ollama:
    """The user's daemon, behind a process of advisor's that is supervised like any server."""

    name = NAME
    health_path = "/health"
    runner: str | None = RUNNER

    def capabilities(self) -> RuntimeCapabilities:
        """GGUF files of every format, wherever the daemon computes; the daemon itself is the user's to install."""
        return RuntimeCapabilities(
            name=self.name,
            methods={"gguf": (*GGUF_FORMATS, *GGUF_SERVED)},
            devices=("cpu", "nvidia", "amd", "apple"),
            executable=True,
            needs={
                "cpu": (ollama.INSTALLED,),
                "nvidia": (ollama.INSTALLED, "an NVIDIA driver"),
                "amd": (ollama.INSTALLED, "a ROCm driver"),
                "apple": (ollama.INSTALLED,),
            },
            env=ENV,
        )

    def serve(self, request: ServeRequest) -> Command:
        """The command of ``runner`` (serve_ollama.py): brings the file to the daemon, loads it, passes requests on.

        Raises:
            AdvisorError: ``not-available`` for a KV cache of a type that Ollama lacks.
        """
        ollama.daemon_environment(request.settings)
        daemon = request.daemon or ollama.DEFAULT_URL
        settings = json.dumps(ollama.parameters(request.settings), separators=(",", ":"))
        argv = [request.python, "-I", "-X", "utf8", request.runner]
        argv += ["--model", request.model_path, "--alias", request.model_name]
        argv += ["--host", request.host, "--port", str(request.port)]
        argv += ["--daemon", daemon, "--parameters", settings]
        argv += [] if ollama.is_local(daemon) else ["--elsewhere"]
        argv += ["--api-key-file", request.api_key_file] if request.api_key_file is not None else []
        return Command(argv=tuple(argv), env={"PYTHONUNBUFFERED": "1"})

    def ready(self, status: int, body: bytes) -> bool:
        """``/health`` answers 200 and ``{"status": "ok"}`` once the daemon has loaded the model, 503 before."""
        if status != 200:
            return False
        try:
            reply = json.loads(body)
        except (ValueError, RecursionError):
            return False
        return isinstance(reply, dict) and reply.get("status") == "ok"

    def diagnose(self, log_tail: str) -> Finding | None:
        """The known failure that a log tail shows."""
        return first(_FAILURES, log_tail)


BACKEND: Final = Ollama()
