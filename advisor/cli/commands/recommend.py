"""``advisor recommend``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from advisor.errors import AdvisorError
from advisor.facts.words import EXIT_NO, EXIT_OK

from ..command import command
from ..options import option, plot_option, recommend_options
from ..run import Run

if TYPE_CHECKING:
    from ..page import Page

# How many are shown where --top does not say: plans of one model, plans where they are drawn, models.
_PLANS: Final = 5
_DRAWN: Final = 12
_MODELS: Final = 10


@command(
    "recommend",
    "advisor recommend                          # what this machine is good for",
    "advisor recommend --hardware rtx-4090 --goal coding",
    "advisor recommend meta-llama/Llama-3.1-8B-Instruct",
    "advisor recommend 8B --hardware rtx-3090:2 --goal serving",
    "advisor recommend 30.5B:3.3B --vram 24GB --bandwidth 1008GB/s --memory 64GB",
    "advisor recommend ./my-model --pareto --plot plans.svg",
)
@click.argument("model", required=False)
@option("--pareto", is_flag=True, help="Only plans that no other one beats in quality, speed and memory together.")
@plot_option(help="Draw speed against quality into FILE.svg or FILE.png, or here (-).")
@option("--preview", is_flag=True, help="Also show the first plan in full, with the commands that `up` stands for.")
@recommend_options
def recommend(run: Run, model: str | None, plot: Path | None, top: int | None, *, preview: bool, **options: Any) -> int:
    """Rank the ways to run MODEL on a machine, with reasons; without MODEL, what to run on it at all.

    MODEL is a hub id, a folder, a .gguf file, pypi:PACKAGE or a bare size such as 8B or 30.5B:3.3B.
    Exit code 3: nothing fits; the answer then says what would have to give.
    """
    if model is None and options["model_facts"] is None:
        return _suggest(run, plot, top or _MODELS, options, preview=preview)
    from advisor import api

    from ..views import plans as view
    from ..views.plotting.target import Target

    target = Target(run, plot)
    report = api.recommend(model, settings=run.settings, top=top or (_DRAWN if plot else _PLANS), **options)
    if target.wanted and report.plans:
        from ..views import pictures

        target.draw([pictures.plans(report)])
    asked = view.Asked(options["context"], options["parallel"], options["kv_type"], options["pareto"], preview)

    def human(page: Page) -> None:
        view.recommendation(page, report, verbose=run.verbose, asked=asked)
        target.show(page)

    run.sink.result(
        run.command,
        view.data(report),
        human=human,
        quiet=tuple(plan.id for plan in report.plans),
        warnings=report.warnings,
    )
    return EXIT_OK if report.plans else EXIT_NO


def _suggest(run: Run, plot: Path | None, top: int, options: dict[str, Any], *, preview: bool) -> int:
    from advisor import api

    from ..views import suggestions as view

    del options["model_facts"]
    pareto = options.pop("pareto")
    if pareto or preview or plot is not None:
        word = "--plot" if plot is not None else "--pareto" if pareto else "--preview"
        raise AdvisorError(
            "contradictory-options",
            f"{word} speaks of the plans of one model; name a MODEL or a size.",
            hint=f"advisor recommend 8B {word}" + (" plans.svg" if plot is not None else ""),
        )
    found = api.suggest(settings=run.settings, top=top, **options)
    run.sink.result(
        run.command,
        view.data(found),
        human=lambda page: view.suggestions(page, found, verbose=run.verbose),
        quiet=tuple(f"{m.plan_id} {m.ref}" for m in found.models),
        warnings=found.warnings,
    )
    return EXIT_OK if found.models or any(s.choice for s in found.size_classes) else EXIT_NO
