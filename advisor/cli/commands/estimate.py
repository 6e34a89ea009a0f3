"""``advisor estimate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import command
from ..options import machine_options, option, plot_option
from ..params import COUNT, FORMAT, KV_TYPE, METHOD, RUNTIME, TOKENS
from ..run import Run

if TYPE_CHECKING:
    from advisor.facts.plan import Estimate

    from ..page import Page
    from ..views.plotting.chart import Chart


@command(
    "estimate",
    "advisor estimate 8B --format q5_k_m --context 16k",
    "advisor estimate 8B --method awq --hardware rtx-4090",
)
@click.argument("model")
@option("--method", type=METHOD, default="gguf", show_default=True, help="Quantization method.")
@option(
    "--format", type=FORMAT, help="Format of the weights (that of a named file, q4_k_m, or the method's usual one)."
)
@option("--runtime", type=RUNTIME, help="Runtime that serves it (llama.cpp, or the one for the method).")
@option("--context", type=TOKENS, help="Tokens of context for all slots together (8192, 32k).")
@option("--parallel", type=COUNT, default=1, show_default=True, help="Requests served at the same time.")
@option("--kv-type", type=KV_TYPE, default="f16", show_default=True, help="Type of the KV cache.")
@option("--gpu-layers", type=click.IntRange(min=0), metavar="N", help="Layers on the devices; by default all that fit.")
@option("--threads", type=COUNT, help="Threads; the granted cores by default.")
@option("--batch", type=COUNT, default=2048, show_default=True, help="Tokens of a prompt taken at once.")
@option("--ubatch", type=COUNT, default=512, show_default=True, help="Tokens computed at once.")
@option("--engine", is_flag=True, help="Ask the runtime itself what it would allocate.")
@plot_option(help="Draw memory against context into FILE.svg or FILE.png, or here (-).")
@machine_options
def estimate(run: Run, model: str, plot: Path | None, **options: Any) -> None:
    """Predict memory, speed and quality of one named choice. No choice is made."""
    from advisor import api
    from advisor.facts.schemas import EstimateData

    from ..views import estimate as view
    from ..views.plotting.target import Target

    target = Target(run, plot)
    found = api.estimate(model, settings=run.settings, **options)
    if target.wanted:
        target.draw([_picture(run, model, found, options)])

    def human(page: Page) -> None:
        view.estimate(page, found, verbose=run.verbose)
        target.show(page)

    run.sink.result(
        run.command,
        EstimateData(estimate=found),
        human=human,
        quiet=(str(found.memory.total.value),),
        warnings=found.warnings,
    )


def _picture(run: Run, model: str, found: Estimate, options: dict[str, Any]) -> Chart:
    """Memory against context of the choice and of what it is weighed against."""
    from advisor import api
    from advisor.planner.curves import Choice, beside

    from ..views import pictures

    chosen = Choice(found.method, found.format, found.runtime)
    rest = {name: value for name, value in options.items() if name not in ("method", "format", "runtime", "engine")}
    return pictures.memory(api.memory_by_context(model, beside(chosen), settings=run.settings, **rest), chosen)
