"""``advisor estimate``."""

from __future__ import annotations

from typing import Any

import click

from ..command import command
from ..options import machine_options, option
from ..params import COUNT, FORMAT, KV_TYPE, METHOD, RUNTIME, TOKENS
from ..run import Run


@command(
    "estimate",
    "advisor estimate 8B --format q5_k_m --context 16k",
    "advisor estimate 8B --method awq --format w4a16-g128 --runtime vllm --hardware rtx-4090",
)
@click.argument("model")
@option("--method", type=METHOD, default="gguf", show_default=True, help="Quantization method.")
@option("--format", type=FORMAT, default="q4_k_m", show_default=True, help="Format of the weights.")
@option("--runtime", type=RUNTIME, default="llama.cpp", show_default=True, help="Runtime that serves it.")
@option("--context", type=TOKENS, help="Tokens of context for all slots together (8192, 32k).")
@option("--parallel", type=COUNT, default=1, show_default=True, help="Requests served at the same time.")
@option("--kv-type", type=KV_TYPE, default="f16", show_default=True, help="Type of the KV cache.")
@option("--gpu-layers", type=click.IntRange(min=0), metavar="N", help="Layers on the devices; by default all that fit.")
@option("--threads", type=COUNT, help="Threads; the granted cores by default.")
@option("--batch", type=COUNT, default=2048, show_default=True, help="Tokens of a prompt taken at once.")
@option("--ubatch", type=COUNT, default=512, show_default=True, help="Tokens computed at once.")
@option("--engine", is_flag=True, help="Ask the runtime itself what it would allocate.")
@machine_options
def estimate(run: Run, model: str, **options: Any) -> None:
    """Predict memory, speed and quality of one named choice. No choice is made."""
    from advisor import api
    from advisor.facts.schemas import EstimateData

    from ..views import estimate as view

    found = api.estimate(model, settings=run.settings, **options)
    run.sink.result(
        run.command,
        EstimateData(estimate=found),
        human=lambda page: view.estimate(page, found, verbose=run.verbose),
        quiet=(str(found.memory.total.value),),
        warnings=found.warnings,
    )
