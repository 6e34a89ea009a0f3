"""``advisor quantize``."""

from __future__ import annotations

from typing import Any

import click

from ..command import command
from ..params import COUNT, EXISTING, FORMAT, METHOD, NEW_PATH
from ..run import Run


@command("quantize")
@click.argument("model")
@click.option("--method", type=METHOD, default="gguf", show_default=True, help="Quantization method.")
@click.option("--format", type=FORMAT, default="q4_k_m", show_default=True, help="Format of the weights.")
@click.option("--quantizer", metavar="NAME", help="Library that makes it; the method's own by default.")
@click.option("--imatrix", type=EXISTING, help="Use this importance matrix.")
@click.option("--calibration", type=EXISTING, help="Calibrate on this text.")
@click.option("--samples", type=COUNT, help="Calibrate on so many samples.")
@click.option("--out", type=NEW_PATH, metavar="DIR", help="Put the model there too; it is kept in the store anyway.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Compare it with the original afterwards.")
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
