"""From any local model to a GGUF artifact and the 16-bit file that it is verified against."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.execute import make
from advisor.execute.gguf_files import FLOATS
from advisor.execute.llama import make as tools
from advisor.execute.make import PLAIN, Made, Making
from advisor.execute.steps import Outcome, Step, Steps
from advisor.facts.model import ModelFacts
from advisor.facts.text import shell_word

# The type at the end of a file's name, which the new file does not have.
_TYPE_TAG: Final = re.compile(r"[.-](?:i?q\d\w*|b?f16|f32|mxfp4)$", re.IGNORECASE)


class Chain(NamedTuple):
    """``reference``: the 16-bit GGUF file; ``artifact``: the wanted one (the same file for a 16-bit format)."""

    reference: Path
    reference_identity: str
    artifact: Made
    notes: tuple[str, ...]


class SixteenBit(NamedTuple):
    """The model as a 16-bit GGUF file, and as a checkpoint folder with its identity where there is one."""

    made: Made
    checkpoint: tuple[Path, str] | None
    notes: tuple[str, ...]


class _Work:
    """One model on its way: its source, its name, and its steps."""

    def __init__(self, making: Making, model: ModelFacts, steps: Steps | None, identity_of: str | None) -> None:
        if model.path is None or model.weights_format == "none":
            raise AdvisorError(
                "model-needs-download",
                f"The weights of {model.name} are not on this machine.",
                hint=f"advisor up {shell_word(model.ref)}",
            )
        self.making, self.model, self.source = making, model, Path(model.path)
        self.steps = steps or Steps(reporter=making.reporter, cancel=making.cancel)
        self.is_gguf = model.weights_format == "gguf"
        self.own = identity_of or make.identity(self.source)
        self.name = _TYPE_TAG.sub("", self.source.stem) if self.is_gguf else model.name.rsplit("/", 1)[-1]
        self.packed = sorted(set(model.source_types) - FLOATS) if self.is_gguf else []
        # The converter repacks MXFP4 bit for bit; everything else it widens.
        self.kept = frozenset({"mxfp4"} if not self.is_gguf and model.quantized_method == "mxfp4" else ())
        self.trained_packed = bool(self.kept) or (model.architecture == "gpt-oss" and "mxfp4" in self.packed)

    def do(self, step: str, work: Callable[[], Made], tell: Callable[[Made], str]) -> Made:
        def outcome() -> Outcome[Made]:
            made = work()
            return Outcome(made, made.reused, tell(made))

        return self.steps.do(Step(step, outcome))

    def restore(self) -> tuple[Path, str]:
        types = ", ".join(self.packed) or "16-bit"
        made = self.do(
            "restore",
            lambda: make.restore_checkpoint(self.making, self.source, identity_of=self.own),
            lambda _: f"16-bit checkpoint of a {types} file",
        )
        return made.path, made.key


def sixteen_bit(
    making: Making,
    model: ModelFacts,
    *,
    outtype: str = "f16",
    checkpoint: bool = False,
    allow_requantize: bool = False,
    identity_of: str | None = None,
    steps: Steps | None = None,
) -> SixteenBit:
    """The 16-bit GGUF file of a local model: the file itself, a conversion, or restored from a quantized one.

    Args:
        checkpoint: a checkpoint folder is wanted beside it.
        allow_requantize: the weights may be quantized already; what they encode is the original then.

    Raises:
        AdvisorError: ``model-needs-download``, ``contradictory-options``; as the steps of ``make``.
    """
    return _sixteen_bit(
        _Work(making, model, steps, identity_of), outtype, checkpoint=checkpoint, allow_requantize=allow_requantize
    )


def _sixteen_bit(work: _Work, outtype: str, *, checkpoint: bool, allow_requantize: bool) -> SixteenBit:
    folder: tuple[Path, str] | None = None if work.is_gguf else (work.source, work.own)
    notes: tuple[str, ...] = ()
    if work.packed:
        types = ", ".join(work.packed)
        if not allow_requantize:
            raise AdvisorError(
                "contradictory-options",
                f"{work.source.name} is quantized already ({types}); quantizing it again adds both errors.",
                hint=f"advisor up {shell_word(work.model.ref)}",
            )
        notes = (
            f"The source was quantized already ({types}); it was restored to a 16-bit checkpoint, which is the "
            "original here: what the source had lost before stays lost.",
        )
    as_it_is = work.is_gguf and not work.packed and outtype in work.model.source_types
    if folder is None and (checkpoint or not as_it_is):
        folder = work.restore()
    if as_it_is:
        manifest = {"format": outtype, "bytes": work.source.stat().st_size}
        return SixteenBit(Made(work.source, work.own, manifest, True), folder, notes)
    if folder is None:  # cannot be: what is not taken as it is was restored, or is a folder
        raise AdvisorError("model-not-found", f"{work.source} is neither a checkpoint folder nor a GGUF file.")
    base, identity = folder
    made = work.do(
        "convert",
        lambda: make.convert_to_gguf(
            work.making,
            base,
            name=work.name,
            outtype=outtype,
            identity_of=identity,
            tokenizer_of=work.source if work.is_gguf else None,
            packed=work.kept,
        ),
        lambda m: f"{outtype} GGUF, {m.path.stat().st_size:,} bytes",
    )
    return SixteenBit(made, folder, notes)


def make_gguf(
    making: Making,
    model: ModelFacts,
    fmt: str,
    *,
    imatrix: bool = False,
    imatrix_file: Path | None = None,
    text: Path | None = None,
    text_name: str | None = None,
    chunks: int = 64,
    allow_requantize: bool = False,
    identity_of: str | None = None,
    steps: Steps | None = None,
) -> Chain:
    """Restore, convert, measure and quantize, as far as each is needed; finished steps are found in the store.

    Args:
        model: a local one: a checkpoint folder with safetensors, or a GGUF file.
        imatrix: measure an importance matrix over ``chunks`` pieces of 512 tokens of ``text``.
        imatrix_file: use this importance matrix and measure none.
        text_name: what the text is called in the file's metadata.
        allow_requantize: the weights of ``model`` may be quantized already; both errors add up then.
        identity_of: the content hash of the model, where it is known.

    Raises:
        AdvisorError: ``model-needs-download``, ``contradictory-options``; as the steps of ``make``.
    """
    measured = imatrix and imatrix_file is None and fmt not in PLAIN
    by_tool = tools.has(making, tools.IMATRIX)
    if measured and text is None:
        raise AdvisorError("contradictory-options", "An importance matrix needs a calibration text.")
    work = _Work(making, model, steps, identity_of)
    if work.trained_packed and fmt != "mxfp4":
        raise AdvisorError(
            "contradictory-options",
            f"The experts of {work.name} are in MXFP4, which they were trained in: llama.cpp keeps them as they are, "
            f"so there is no {fmt} file of them.",
            hint=f"advisor up {shell_word(model.ref)}"
            if work.is_gguf
            else f"advisor quantize {shell_word(model.ref)} --format mxfp4",
        )
    outtype = fmt if fmt in PLAIN else "f16"
    base = _sixteen_bit(work, outtype, checkpoint=measured and not by_tool, allow_requantize=allow_requantize)
    if fmt in PLAIN:
        return Chain(base.made.path, base.made.key, base.made, base.notes)
    matrix, matrix_identity = imatrix_file, None
    if measured and text is not None and by_tool:
        words = text
        made = work.do(
            "imatrix",
            lambda: tools.make_imatrix(making, base.made.path, words, chunks=chunks, identity_of=base.made.key),
            lambda _: f"{chunks} chunks of {text_name or words.name}",
        )
        matrix, matrix_identity = made.path, made.key
    elif measured and text is not None and base.checkpoint is not None:
        folder, folder_identity = base.checkpoint
        calibration = text
        made = work.do(
            "imatrix",
            lambda: make.make_imatrix(
                making, folder, calibration, chunks=chunks, dataset=text_name, identity_of=folder_identity
            ),
            lambda _: f"{chunks} chunks of {text_name or calibration.name}",
        )
        matrix, matrix_identity = made.path, made.key
    quantize = tools.quantize_gguf if tools.has(making, tools.QUANTIZE) else make.quantize_gguf
    artifact = work.do(
        "quantize",
        lambda: quantize(
            making,
            base.made.path,
            fmt,
            name=work.name,
            imatrix=matrix,
            identity_of=base.made.key,
            imatrix_identity=matrix_identity,
        ),
        _told,
    )
    return Chain(base.made.path, base.made.key, artifact, (*base.notes, *artifact.manifest.get("notes", ())))


def _told(made: Made) -> str:
    fell = made.manifest.get("fallbacks") or {}
    size = f"{made.path.stat().st_size:,} bytes"
    if not fell:
        return size
    return f"{size}; row widths force " + ", ".join(f"{n} x {k}" for k, n in sorted(fell.items()))
