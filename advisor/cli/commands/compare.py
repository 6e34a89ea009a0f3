"""``advisor compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..command import command
from ..options import compare_options, option
from ..params import NEW_PATH
from ..run import Run


@command(
    "compare",
    "advisor compare                            # a small real model, predicted",
    "advisor compare ./my-model --measure",
    "advisor compare 8B --hardware rtx-4090 --plot table.svg",
)
@click.argument("model", required=False)
@option("--measure", is_flag=True, help="Make, prove, serve and measure each on this machine; a stopped run goes on.")
@option("--again", is_flag=True, help="Measure again what was measured before.")
@option("--plot", type=NEW_PATH, metavar="FILE.svg", help="Draw memory, quality and speed of the rows.")
@compare_options
def compare(run: Run, model: str | None, plot: Path | None, **options: Any) -> None:
    """Show the quantization methods side by side for MODEL: predicted, and with --measure measured.

    What needs a device or a runtime that is not here is predicted only, and says what is missing.
    """
    from advisor import api
    from advisor.facts.schemas import CompareData

    from ..views import compare as view
    from ..views.scatter import draw

    with run.working() as work:
        found = api.compare(model, settings=run.settings, reporter=work.reporter, cancel=work.cancel, **options)
    if plot is not None:
        draw(plot, found)
    run.sink.result(
        run.command,
        CompareData(rows=found.rows, model=found.model),
        human=lambda page: view.comparison(page, found, verbose=run.verbose),
        quiet=view.bare(found),
    )
