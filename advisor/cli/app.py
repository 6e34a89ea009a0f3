"""The table of all commands."""

from __future__ import annotations

from typing import Final

import click

from advisor._version import __version__

from .command import LazyGroup, Option
from .run import Run

_AT: Final = "advisor.cli.commands."

COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "probe": (_AT + "probe", "probe", "Show what this machine has for running models."),
    "recommend": (_AT + "recommend", "recommend", "Rank the ways to run a model on a machine, with reasons."),
    "estimate": (_AT + "estimate", "estimate", "Predict memory, speed and quality of one named choice."),
    "compare": (_AT + "compare", "compare", "Show the methods side by side, predicted and measured."),
    "bench": (_AT + "bench", "bench", "Measure the speed of a deployment or a model, and learn from it."),
    "up": (_AT + "up", "up", "Carry out the best plan and serve the model."),
    "status": (_AT + "deployments", "status", "Show what is being served."),
    "logs": (_AT + "deployments", "logs", "Show the log of a deployment."),
    "down": (_AT + "deployments", "down", "Stop deployments."),
    "metrics": (_AT + "metrics", "metrics", "Write the deployments' state, memory and speeds for Prometheus."),
    "restart": (_AT + "deployments", "restart", "Stop a deployment and start it again."),
    "export": (_AT + "export", "export", "Write a plan as a systemd unit, a compose file, manifests ..."),
    "quantize": (_AT + "quantize", "quantize", "Make a quantized model."),
    "verify": (_AT + "verify", "verify", "Measure how far an artifact is from its original."),
    "explain": (_AT + "explain", "explain", "Say why: of a plan, a rule or an error code."),
    "rules": (_AT + "rules", "rules", "Look at the selection guide's rules, and check your own."),
    "hardware": (_AT + "catalogues", "hardware", "Look up hardware."),
    "models": (_AT + "catalogues", "models", "Look up models that are known without a network."),
    "goals": (_AT + "catalogues", "goals", "Look up the goals that plans are ranked by."),
    "env": (_AT + "env", "env", "Manage the environments of the backends."),
    "cache": (_AT + "cache", "cache", "See what the cache holds, and clear it."),
    "doctor": (_AT + "doctor", "doctor", "Check that advisor can do its work here."),
    "paths": (_AT + "about", "paths", "Show where advisor keeps its files."),
    "config": (_AT + "about", "config", "Show the settings and where each was set."),
    "schema": (_AT + "about", "schema", "Print the JSON Schema of a document."),
}


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    run = ctx.obj
    if not isinstance(run, Run):
        raise TypeError("the program needs a Run as context object")
    text = f"advisor {__version__}"
    if run.sink.mode != "json":  # without the weight of a page
        run.sink.raw(text + "\n")
        ctx.exit(0)
    from advisor.facts.schemas import VersionData

    run.sink.result("version", VersionData(version=__version__), human=lambda page: page.text(text))
    ctx.exit(0)


def build() -> LazyGroup:
    """The whole program as a click group."""
    group = LazyGroup(
        "advisor",
        COMMANDS,
        "Decide how a language model should be quantized and served on a machine, do it, and show the proof.",
        examples=(
            "advisor up                             # a small real model",
            "advisor recommend 8B --hardware rtx-4090",
            "advisor up ./my-model --goal coding",
            "advisor status",
        ),
    )
    group.params.insert(
        0,
        Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Show the version and exit.",
        ),
    )
    return group
