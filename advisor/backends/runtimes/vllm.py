"""vLLM: its OpenAI server out of its own environment, on the CPU by a CPU build, on NVIDIA by the CUDA build."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import Command, RuntimeCapabilities, ServeRequest
from advisor.backends.diagnose import first
from advisor.backends.vllm.failures import FAILURES
from advisor.backends.vllm.options import environment, options
from advisor.facts.results import Finding

ENV: Final = "vllm"
RUNNER: Final = "serve_vllm.py"
_GROUPED: Final = ("w4a16-g128", "w4a16-g64", "w4a16-g32")


class Vllm:
    """vLLM's server, started by a runner that keeps the key out of argument lists."""

    name = ENV
    health_path = "/health"
    runner: str | None = RUNNER

    def capabilities(self) -> RuntimeCapabilities:
        """Checkpoints of safetensors; ready builds for x86 CPUs and NVIDIA, others as their projects publish them."""
        return RuntimeCapabilities(
            name=self.name,
            methods={
                "awq": _GROUPED,
                "gptq": (*_GROUPED, "w8a16-g128", "w8a16-g64", "w8a16-g32"),
                "rtn": _GROUPED,
                "w8a8": ("w8a8",),
                "fp8": ("fp8",),
                "nvfp4": ("nvfp4",),
                "mxfp4": ("mxfp4",),
                "nf4": ("nf4",),
                "none": ("bf16", "f16"),
            },
            devices=("nvidia", "amd", "intel", "cpu"),
            executable=True,
            needs={
                "nvidia": (),
                "amd": ("vLLM's and torch's ROCm builds: add the projects' own indexes to pip's configuration",),
                "intel": ("an XPU build of vLLM in an environment of its own",),
                "cpu": (),
            },
            # Marlin kernels start at 7.5; below 8.9 FP8 is weight-only, below 10.0 NVFP4 is.
            min_compute_capability={
                "awq": 7.5,
                "gptq": 7.5,
                "rtn": 7.5,
                "w8a8": 7.5,
                "fp8": 7.5,
                "nvfp4": 7.5,
                "mxfp4": 8.0,
                "nf4": 7.5,
                "bf16": 8.0,
                "f16": 7.5,
            },
            env=ENV,
        )

    def serve(self, request: ServeRequest) -> Command:
        """The command of ``runner`` (serve_vllm.py); what stands behind ``--`` are vLLM's own options.

        Raises:
            AdvisorError: ``not-available`` for a KV type that vLLM lacks; ``bad-option`` on a CPU where the plan does
                not say how large the KV cache is.
        """
        argv = [request.python, "-I", "-X", "utf8", request.runner]
        argv += ["--api-key-file", request.api_key_file] if request.api_key_file is not None else []
        own = options(
            request.settings,
            model=request.model_path,
            name=request.model_name,
            host=request.host,
            port=request.port,
            method=request.method,
            fmt=request.format,
            device=request.device,
            kv_cache_bytes=request.kv_cache_bytes,
            at_load=request.recipe is not None and request.recipe.at_load,
        )
        return Command(argv=(*argv, "--", *own), env=environment(request.settings, request.device))

    def ready(self, status: int, body: bytes) -> bool:
        """``/health`` answers 200 with an empty body once the engine runs; before, nothing listens."""
        return status == 200

    def diagnose(self, log_tail: str) -> Finding | None:
        """The known failure that a log tail shows. The cause may stand far above the end: give it all there is."""
        return first(FAILURES, log_tail)


BACKEND: Final = Vllm()
