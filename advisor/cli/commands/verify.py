"""``advisor verify``."""

from __future__ import annotations

from typing import Any

import click

from ..command import command
from ..options import option
from ..params import COUNT, EXISTING, TEXT
from ..run import Run


@command(
    "verify",
    "advisor verify model-q4_k_m.gguf --against ./my-model",
    "advisor verify model-q4_k_m.gguf --against ./my-model --text my.txt",
    "advisor verify ./my-model-awq --against ./my-model",
)
@click.argument("artifact")
@option(
    "--against",
    metavar="MODEL",
    help="The model it was made of, to compare with; without it only the file is judged.",
)
@option("--text", type=TEXT, help="Measure on this text: a file, wikitext-2, or hf:datasets/OWNER/NAME/FILE.")
@option(
    "--task",
    type=EXISTING,
    help="Ask these questions too: JSON lines of prompt and expect, or of question, choices and answer.",
)
@option("--chunks", type=COUNT, help="Measure on so many pieces of the text.")
def verify(run: Run, artifact: str, **options: Any) -> int:
    """Measure how far ARTIFACT, a .gguf file or the folder of a quantized checkpoint, is from its original.

    Perplexity, KL divergence, agreement on the likeliest token and fixed prompts. Exit code 3: the quality gate failed.
    """
    from advisor import api
    from advisor.facts.schemas import VerifyData

    from ..views import verification as view

    with run.working() as work:
        found = api.verify(artifact, settings=run.settings, reporter=work.reporter, cancel=work.cancel, **options)
    run.sink.result(
        run.command,
        VerifyData(verification=found),
        human=lambda page: view.verification(page, found, verbose=run.verbose),
        quiet=(found.gate.verdict,),
    )
    return view.exit_code(found)
