"""``advisor up``."""

from __future__ import annotations

from typing import Any

import click

from advisor.errors import AdvisorError

from ..command import command
from ..options import planning_options
from ..params import EXISTING, Word
from ..run import Run, Work


@command("up")
@click.argument("model", required=False, metavar="[MODEL|PLAN_ID]")
@planning_options
@click.option("--name", help="Name of the deployment; the model's by default.")
@click.option("--host", help="Address to serve on; only this machine by default.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to serve on; the next free one is taken otherwise.")
@click.option("--recover", type=Word("way", ("ask", "auto", "never")), help="When a plan fails: ask, auto or never.")
@click.option("--dry-run", is_flag=True, help="Show the plan and its commands; change nothing.")
@click.option("--restart", type=click.IntRange(min=0), metavar="N", help="Start a server that ended again, N times.")
@click.option("--text", type=EXISTING, help="Verify the quantized model on this text.")
def up(run: Run, model: str | None, **options: Any) -> None:
    """Carry out the best plan for MODEL, or the kept plan PLAN_ID, and serve the model.

    Ctrl-C before the server is ready stops the work and keeps what is finished; afterwards the server keeps running.
    """
    from advisor import api
    from advisor.facts.schemas import UpData

    from ..views import up as view

    with run.working() as work:
        try:
            done = api.up(model, settings=run.settings, reporter=work.reporter, cancel=work.cancel, **options)
        except (AdvisorError, KeyboardInterrupt) as e:
            raise _still_running(e, work, options["name"]) from e
    run.sink.result(
        run.command,
        UpData(**{name: getattr(done, name) for name in UpData.__struct_fields__}),
        human=lambda page: view.up(page, done, verbose=run.verbose),
        quiet=view.bare(done),
    )


def _still_running(stopped: BaseException, work: Work, name: str | None) -> BaseException:
    """Tell how to stop a server that was ready before the interruption; it has been left running."""
    interrupted = isinstance(stopped, KeyboardInterrupt) or getattr(stopped, "code", "") == "interrupted"
    if not interrupted or "ready" not in work.finished:
        return stopped
    hint = f"advisor down {name}" if name else "advisor status"
    return AdvisorError("interrupted", "Stopped; the server was ready before and keeps running.", hint=hint)
