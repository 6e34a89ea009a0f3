"""``advisor hardware``, ``models`` and ``goals``: what is known without asking anybody."""

from __future__ import annotations

import click

from ..command import LazyGroup, command
from ..options import option
from ..run import Run


@command(
    "list",
    "advisor hardware list laptop",
    "advisor hardware list --vendor amd",
    "advisor hardware list --for meta-llama/Llama-3.1-8B-Instruct",
)
@click.argument("words", nargs=-1)
@option("--vendor", metavar="NAME", help="Only this maker's (nvidia, amd, intel, apple, other).")
@option("--for", "model", metavar="MODEL", help="Only what holds this model whole, and how fast.")
def hardware_list(run: Run, words: tuple[str, ...], vendor: str | None, model: str | None) -> None:
    """List the hardware profiles; with WORDS those that have them in their names."""
    from advisor import api
    from advisor.facts.schemas import HardwareListData

    from ..views import catalogues as view

    found = api.hardware(words, vendor=vendor, model=model, settings=run.settings)
    run.sink.result(
        run.command,
        HardwareListData(hardware=found),
        human=lambda page: view.hardware(page, found, model=model),
        quiet=tuple(profile.id for profile in found if profile.runs is None or profile.runs.fits is not False),
    )


@command("show")
@click.argument("name")
def hardware_show(run: Run, name: str) -> None:
    """Show one hardware profile, by id, alias or the vendor's name."""
    from advisor import api
    from advisor.facts.schemas import HardwareData

    from ..views import catalogues as view

    found = api.hardware_show(name, settings=run.settings)
    run.sink.result(
        run.command,
        HardwareData(hardware=found),
        human=lambda page: view.profile(page, found),
        quiet=(found.id,),
    )


@command(
    "list",
    "advisor models list qwen3",
    "advisor models list apache --for rtx-3060",
    "advisor models list --for this",
)
@click.argument("words", nargs=-1)
@option("--for", "hardware", metavar="HARDWARE", help="Only what this holds whole, and how fast (rtx-4090, cpu, this).")
def models_list(run: Run, words: tuple[str, ...], hardware: str | None) -> None:
    """List the models that are known without a network; with WORDS those that have them in id, architecture or license.

    `advisor recommend --hardware NAME` ranks them.
    """
    from advisor import api
    from advisor.facts.schemas import ModelsData

    from ..views import catalogues as view

    found = api.models(words, hardware=hardware, settings=run.settings)
    run.sink.result(
        run.command,
        ModelsData(models=found),
        human=lambda page: view.models(page, found, hardware=hardware),
        quiet=tuple(model.ref for model in found if model.runs is None or model.runs.fits is not False),
    )


@command("show")
@click.argument("model")
def models_show(run: Run, model: str) -> None:
    """Show what is known of MODEL; nothing is fetched."""
    from advisor import api
    from advisor.facts.schemas import ModelData

    from ..views import catalogues as view

    found = api.describe(model, settings=run.settings)
    run.sink.result(
        run.command,
        ModelData(model=found),
        human=lambda page: view.model(page, found),
        quiet=(found.name,),
    )


@command("list")
def goals_list(run: Run) -> None:
    """List the goals."""
    from advisor import api
    from advisor.facts.schemas import GoalsData

    from ..views import catalogues as view

    found = api.goals(settings=run.settings)
    run.sink.result(
        run.command,
        GoalsData(goals=found),
        human=lambda page: view.goals(page, found, verbose=run.verbose),
        quiet=tuple(goal.id for goal in found),
    )


hardware = LazyGroup(
    "hardware",
    {
        "list": (__name__, "hardware_list", "List the hardware profiles."),
        "show": (__name__, "hardware_show", "Show one hardware profile."),
    },
    "The hardware profiles.",
)
models = LazyGroup(
    "models",
    {
        "list": (__name__, "models_list", "List the models that are known without a network."),
        "show": (__name__, "models_show", "Show what is known of a model."),
    },
    "The models that are known without a network.",
)
goals = LazyGroup(
    "goals",
    {"list": (__name__, "goals_list", "List the goals.")},
    "The goals that plans are ranked by.",
)
