"""``advisor recommend``."""

from __future__ import annotations

from typing import Any

import click

from advisor.facts.words import EXIT_NO, EXIT_OK

from ..command import command
from ..options import recommend_options
from ..run import Run


@command(
    "recommend",
    "advisor recommend meta-llama/Llama-3.1-8B-Instruct",
    "advisor recommend 8B --hardware rtx-3090:2 --goal serving",
    "advisor recommend 30.5B:3.3B --memory 64GB --context 32k",
    "advisor recommend ./my-model --method gguf --min-quality 0.98",
)
@click.argument("model", required=False)
@recommend_options
def recommend(run: Run, model: str | None, **options: Any) -> int:
    """Rank the ways to run MODEL on a machine, with reasons.

    MODEL is a hub id, a folder, a .gguf file, pypi:PACKAGE or a bare size such as 8B or 30.5B:3.3B.
    Exit code 3: nothing fits; the answer then says what would have to give.
    """
    from advisor import api

    from ..views import plans as view

    report = api.recommend(model, settings=run.settings, **options)
    asked = view.Asked(options["context"], options["parallel"], options["kv_type"])
    run.sink.result(
        run.command,
        view.data(report),
        human=lambda page: view.recommendation(page, report, verbose=run.verbose, asked=asked),
        quiet=tuple(plan.id for plan in report.plans),
        warnings=report.warnings,
    )
    return EXIT_OK if report.plans else EXIT_NO
