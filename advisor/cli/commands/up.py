"""``advisor up``."""

from __future__ import annotations

from typing import Any

import click

from ..command import command
from ..options import planning_options
from ..params import TEXT, Word
from ..recovery import recovering
from ..run import Run


@command("up")
@click.argument("model", required=False, metavar="[MODEL|PLAN_ID]")
@planning_options
@click.option("--name", help="Name of the deployment; the model's by default.")
@click.option("--host", help="Address to serve on; only this machine by default.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to serve on; the next free one is taken otherwise.")
@click.option(
    "--recover",
    type=Word("way to recover", ("ask", "auto", "never")),
    help="When a plan fails and there is another one: ask, auto (take it) or never.",
)
@click.option(
    "--provider",
    type=Word("provider", ("path", "build", "wheel")),
    help="The llama.cpp that serves: found on PATH, compiled here, or the prebuilt wheel; the best one otherwise.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan and its commands; change nothing.")
@click.option(
    "--text",
    type=TEXT,
    help="Verify the quantized model on this text: a file, wikitext-2, hf:datasets/OWNER/NAME/FILE.",
)
def up(run: Run, model: str | None, recover: str | None, **options: Any) -> None:
    """Carry out the best plan for MODEL, or the kept plan PLAN_ID, and serve the model.

    Ctrl-C before the server is ready stops the work and keeps what is finished; afterwards the server keeps running.
    """
    from advisor.facts.schemas import UpData

    from ..views import up as view

    done = recovering(run, model, recover, options)
    run.sink.result(
        run.command,
        UpData(**{name: getattr(done, name) for name in UpData.__struct_fields__}),
        human=lambda page: view.up(page, done, verbose=run.verbose),
        quiet=view.bare(done),
    )
