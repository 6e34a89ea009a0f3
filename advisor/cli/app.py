"""The table of all commands."""

from __future__ import annotations

from typing import Final

import click

from advisor._version import __version__

from .command import LazyGroup

_AT: Final = "advisor.cli.commands."

COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "probe": (_AT + "probe", "probe", "Show what this machine has for running models."),
    "recommend": (_AT + "recommend", "recommend", "Rank the ways to run a model on a machine, with reasons."),
    "estimate": (_AT + "estimate", "estimate", "Predict memory, speed and quality of one named choice."),
    "up": (_AT + "up", "up", "Carry out the best plan and serve the model."),
    "status": (_AT + "deployments", "status", "Show what is being served."),
    "logs": (_AT + "deployments", "logs", "Show a deployment's log."),
    "down": (_AT + "deployments", "down", "Stop deployments."),
    "restart": (_AT + "deployments", "restart", "Stop a deployment and start it again."),
    "quantize": (_AT + "quantize", "quantize", "Make a quantized model."),
    "verify": (_AT + "verify", "verify", "Measure how far an artifact is from its original."),
    "explain": (_AT + "explain", "explain", "Say why: of a plan, a rule, an error code or the last recommendation."),
    "rules": (_AT + "rules", "rules", "The selection guide's rules."),
    "hardware": (_AT + "catalogues", "hardware", "The hardware profiles."),
    "models": (_AT + "catalogues", "models", "The models that are known without a network."),
    "goals": (_AT + "catalogues", "goals", "The goals that plans are ranked by."),
    "env": (_AT + "env", "env", "The managed environments of the backends."),
    "doctor": (_AT + "doctor", "doctor", "Check that advisor can do its work here."),
    "paths": (_AT + "about", "paths", "Show where advisor keeps its files."),
    "config": (_AT + "about", "config", "The settings and where each was set."),
    "schema": (_AT + "about", "schema", "Print the JSON Schema of a document."),
}


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"advisor {__version__}")
        ctx.exit(0)


def build() -> LazyGroup:
    """The whole program as a click group."""
    group = LazyGroup(
        "advisor",
        COMMANDS,
        "Decide how a language model should be quantized and served on a machine, do it, and show the proof.",
    )
    group.params.insert(
        0,
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Show the version and exit.",
        ),
    )
    return group
