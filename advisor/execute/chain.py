"""From any local model to a GGUF artifact and the 16-bit file that it is verified against."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.execute import make
from advisor.execute.make import FLOATS, PLAIN, Made, Making
from advisor.execute.steps import Outcome, Step, Steps
from advisor.facts.model import ModelFacts

# The type at the end of a file's name, which the new file does not have.
_TYPE_TAG: Final = re.compile(r"[.-](?:i?q\d\w*|b?f16|f32|mxfp4)$", re.IGNORECASE)


class Chain(NamedTuple):
    """``reference``: the 16-bit GGUF file; ``artifact``: the wanted one (the same file for a 16-bit format)."""

    reference: Path
    reference_identity: str
    artifact: Made
    notes: tuple[str, ...]


def make_gguf(
    making: Making,
    model: ModelFacts,
    fmt: str,
    *,
    imatrix: bool = False,
    text: Path | None = None,
    chunks: int = 64,
    allow_requantize: bool = False,
    identity_of: str | None = None,
    steps: Steps | None = None,
) -> Chain:
    """Restore, convert, measure and quantize, as far as each is needed; finished steps are found in the store.

    Args:
        model: a local one: a checkpoint folder with safetensors, or a GGUF file.
        imatrix: measure an importance matrix over ``chunks`` pieces of 512 tokens of ``text``.
        allow_requantize: the weights of ``model`` may be quantized already; both errors add up then.
        identity_of: the content hash of the model, where it is known.

    Raises:
        AdvisorError: ``model-needs-download``, ``contradictory-options``; as the steps of ``make``.
    """
    if model.path is None or model.weights_format == "none":
        raise AdvisorError(
            "model-needs-download",
            f"The weights of {model.name} are not on this machine.",
            hint=f"advisor up {model.ref}",
        )
    if imatrix and text is None:
        raise AdvisorError("contradictory-options", "An importance matrix needs a calibration text.")
    run = steps or Steps(reporter=making.reporter, cancel=making.cancel)
    source, notes = Path(model.path), []
    own = identity_of or make.identity(source)
    name = _TYPE_TAG.sub("", source.stem) if model.weights_format == "gguf" else model.name.rsplit("/", 1)[-1]

    def do(step: str, work: Callable[[], Made]) -> Made:
        def outcome() -> Outcome[Made]:
            made = work()
            return Outcome(made, made.reused, made.path.name)

        return run.do(Step(step, outcome))

    def restored() -> Made:
        return do("restore", lambda: make.restore_checkpoint(making, source, identity_of=own))

    outtype = fmt if fmt in PLAIN else "f16"
    packed = model.weights_format == "gguf" and not set(model.source_types) <= FLOATS
    checkpoint: tuple[Path, str] | None = None
    if model.weights_format == "safetensors":
        checkpoint = (source, own)
    elif packed:
        if not allow_requantize:
            raise AdvisorError(
                "contradictory-options",
                f"{source.name} is quantized already ({', '.join(sorted(set(model.source_types) - FLOATS))}); "
                "quantizing it again adds both errors.",
                hint=f"advisor up {model.ref}",
            )
        notes.append(f"{source.name} was quantized before; differences are measured from what it encodes.")
        made = restored()
        checkpoint = (made.path, made.key)
    if checkpoint is None and outtype in model.source_types:
        reference, reference_identity = source, own
        converted = Made(source, own, {"format": outtype, "bytes": source.stat().st_size}, True)
    else:
        if checkpoint is None:
            made = restored()
            checkpoint = (made.path, made.key)
        folder, folder_identity = checkpoint
        converted = do(
            "convert",
            lambda: make.convert_to_gguf(
                making,
                folder,
                name=name,
                outtype=outtype,
                identity_of=folder_identity,
                tokenizer_of=source if model.weights_format == "gguf" else None,
            ),
        )
        reference, reference_identity = converted.path, converted.key
    if fmt in PLAIN:
        return Chain(reference, reference_identity, converted, tuple(notes))
    matrix: Made | None = None
    if imatrix and text is not None:
        if checkpoint is None:
            made = restored()
            checkpoint = (made.path, made.key)
        calibrated, calibrated_identity = checkpoint
        matrix = do(
            "imatrix",
            lambda: make.make_imatrix(making, calibrated, text, chunks=chunks, identity_of=calibrated_identity),
        )
    artifact = do(
        "quantize",
        lambda: make.quantize_gguf(
            making,
            reference,
            fmt,
            name=name,
            imatrix=matrix.path if matrix else None,
            identity_of=reference_identity,
            imatrix_identity=matrix.key if matrix else None,
        ),
    )
    return Chain(reference, reference_identity, artifact, tuple(notes))
