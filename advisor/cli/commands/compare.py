"""``advisor compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import command
from ..options import compare_options, option, plot_option
from ..run import Run

if TYPE_CHECKING:
    from advisor.facts.comparison import Comparison

    from ..page import Page
    from ..views.plotting.chart import Chart


@command(
    "compare",
    "advisor compare                            # a small real model, predicted",
    "advisor compare ./my-model --measure",
    "advisor compare 8B --hardware rtx-4090 --plot table.svg",
)
@click.argument("model", required=False)
@option("--measure", is_flag=True, help="Make, prove, serve and measure each on this machine; a stopped run goes on.")
@option("--again", is_flag=True, help="Measure again what was measured before.")
@plot_option(help="Draw the rows, and memory against context, into FILE.svg or FILE.png, or here (-).")
@compare_options
def compare(run: Run, model: str | None, plot: Path | None, **options: Any) -> None:
    """Show the quantization methods side by side for MODEL: predicted, and with --measure measured.

    What needs a device or a runtime that is not here is predicted only, and says what is missing.
    """
    from advisor import api
    from advisor.facts.schemas import CompareData

    from ..views import compare as view
    from ..views.plotting.target import Target

    target = Target(run, plot)
    with run.working() as work:
        found = api.compare(model, settings=run.settings, reporter=work.reporter, cancel=work.cancel, **options)
    if target.wanted:
        target.draw(_pictures(run, found, options))

    def human(page: Page) -> None:
        view.comparison(page, found, verbose=run.verbose)
        target.show(page)

    run.sink.result(
        run.command,
        CompareData(rows=found.rows, model=found.model),
        human=human,
        quiet=view.bare(found),
        warnings=api.own_rules(settings=run.settings),
    )


def _pictures(run: Run, found: Comparison, options: dict[str, Any]) -> list[Chart]:
    """The rows, and the memory of each over contexts."""
    from advisor import api
    from advisor.planner.curves import Choice

    from ..views import pictures

    choices = [Choice(r.method, r.format, r.runtime) for r in found.rows if r.predicted is not None]
    if not choices:
        return [pictures.comparison(found)]
    parallel = options["parallel"] or 1
    curves = api.memory_by_context(
        found.model.ref,
        choices,
        context=options["context"] * parallel if options["context"] else None,
        parallel=parallel,
        kv_type=options["kv_type"] or "f16",
        settings=run.settings,
        **{name: options[name] for name in ("hardware", "memory", "vram", "bandwidth")},
    )
    return [pictures.comparison(found), pictures.memory(curves)]
