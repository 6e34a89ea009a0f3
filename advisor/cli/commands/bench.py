"""``advisor bench``."""

from __future__ import annotations

import click

from advisor.errors import AdvisorError
from advisor.facts.text import clean

from ..command import command
from ..options import option
from ..params import COUNT, COUNTS, FORMAT
from ..run import Run


@command(
    "bench",
    "advisor bench                              # the deployment that runs, else a small real model",
    "advisor bench ./model-q4_k_m.gguf --depths 256,4k --threads 8,4,2",
    "advisor bench my-deployment --repeat 5",
)
@click.argument("target", metavar="[NAME or MODEL]", required=False)
@option("--depths", type=COUNTS, default=(), help="Tokens in the cache before decoding (256,1k).")
@option("--threads", type=COUNTS, default=(), help="Numbers of threads to compare, of a model (8,4).")
@option("--repeat", type=COUNT, default=3, show_default=True, help="Runs of each.")
@option("--format", type=FORMAT, help="Which of several files of the model.")
@option("--stand-ins/--no-stand-ins", default=True, help="Also other formats, with random weights (the default).")
@option("--forget", is_flag=True, help="Remove what was measured and learned on this machine.")
def bench(
    run: Run,
    target: str | None,
    depths: tuple[int, ...],
    threads: tuple[int, ...],
    repeat: int,
    format: str | None,
    stand_ins: bool,
    forget: bool,
) -> None:
    """Measure decode and prefill of a running deployment, or of a model file, at several depths.

    The result is kept: predictions for this machine then follow it, also for other formats and models.
    """
    from advisor import api
    from advisor.facts.schemas import BenchData

    from ..views import bench as view

    if forget:
        if target is not None:
            raise AdvisorError(
                "contradictory-options",
                f"--forget forgets everything; {clean(target, 160)!r} is not measured.",
                hint="advisor bench --forget",
            )
        gone = api.forget_measured(settings=run.settings)
        run.sink.result(
            run.command,
            BenchData(bench=None, forgotten=str(gone) if gone else None),
            human=lambda page: view.forgotten(page, gone),
            quiet=(str(gone),) if gone else (),
        )
        return
    with run.working() as work:
        found = api.bench(
            target,
            depths=depths,
            threads=threads,
            repeat=repeat,
            format=format,
            stand_ins=stand_ins,
            settings=run.settings,
            reporter=work.reporter,
            cancel=work.cancel,
        )
    run.sink.result(
        run.command,
        BenchData(bench=found),
        human=lambda page: view.bench(page, found, verbose=run.verbose),
        quiet=view.bare(found),
    )
