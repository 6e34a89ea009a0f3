"""``advisor quantize``."""

from __future__ import annotations

from typing import Any

import click

from ..command import command
from ..options import making_options, option
from ..params import EXISTING, FORMAT, METHOD, NEW_PATH, QUANTIZER, TEXT
from ..run import Run


@command(
    "quantize",
    "advisor quantize ./my-model --format q5_k_m --out ./models/",
    "advisor quantize ./my-model --format iq4_xs --calibration my.txt",
    "advisor quantize ./my-model --format q4_k_m --tensor-type ffn_down=q6_k --tensor-type attn_v=q8_0",
    "advisor quantize ./my-model --method awq --group-size 64 --calibration chats.jsonl",
    "advisor quantize ./my-model --method gptq --bits 8 --desc-act",
)
@click.argument("model")
@option("--method", type=METHOD, help="Quantization method; gguf by default, or the one that has --format.")
@option("--format", type=FORMAT, help="Format of the weights; the method's usual one by default (gguf: q4_k_m).")
@option("--quantizer", type=QUANTIZER, help="Library that makes it; the method's own by default.")
@option(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="NAME=TYPE",
    help="GGUF: tensors with NAME (a regular expression) in their name get TYPE; repeat it for others.",
)
@option("--imatrix", type=EXISTING, help="GGUF: use this importance matrix.")
@making_options
@option(
    "--out",
    type=NEW_PATH,
    metavar="PATH",
    help="Copy it there too: into a folder that exists, or under this name. The store keeps its own.",
)
@option("--text", type=TEXT, help="Verify on this text: a file, wikitext-2, hf:datasets/OWNER/NAME/FILE.")
@option("--adapter-only", is_flag=True, help="Make a GGUF file of the adapter alone, for llama.cpp's --lora.")
@option("--verify/--no-verify", default=True, show_default=True, help="Compare it with the original afterwards.")
def quantize(run: Run, model: str, **options: Any) -> int:
    """Make a quantized model of MODEL: a hub id, a folder, a .gguf file or pypi:PACKAGE.

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
