"""``advisor quantize``."""

from __future__ import annotations

from typing import Any

import click

from ..command import command
from ..options import option
from ..params import COUNT, EXISTING, FORMAT, METHOD, NEW_PATH, QUANTIZER
from ..run import Run


@command(
    "quantize",
    "advisor quantize ./my-model --format q5_k_m --out ./models/",
    "advisor quantize ./my-model --format iq4_xs --calibration my.txt",
)
@click.argument("model")
@option("--method", type=METHOD, default="gguf", show_default=True, help="Quantization method.")
@option("--format", type=FORMAT, default="q4_k_m", show_default=True, help="Format of the weights.")
@option("--quantizer", type=QUANTIZER, help="Library that makes it; the method's own by default.")
@option("--imatrix", type=EXISTING, help="Use this importance matrix.")
@option("--calibration", type=EXISTING, help="Calibrate on this text.")
@option("--samples", type=COUNT, help="Calibrate on so many samples.")
@option(
    "--out",
    type=NEW_PATH,
    metavar="PATH",
    help="Copy the file there too: into a folder that exists, or under this name. The store keeps its own.",
)
@option("--verify/--no-verify", default=True, show_default=True, help="Compare it with the original afterwards.")
def quantize(run: Run, model: str, **options: Any) -> int:
    """Make a quantized model of MODEL.

    Exit code 3: it was made, but it is too far from the original.
    """
    from advisor import api
    from advisor.facts.schemas import QuantizeData

    from ..views import artifact as view
    from ..views import verification

    with run.working() as work:
        made = api.quantize(model, settings=run.settings, reporter=work.reporter, cancel=work.cancel, **options)
    run.sink.result(
        run.command,
        QuantizeData(artifact=made),
        human=lambda page: view.artifact(page, made, verbose=run.verbose),
        quiet=(made.path,),
    )
    return verification.exit_code(made.verification)
