"""Importance matrices and quantized files by llama.cpp's own tools, of a provider that has them.

Step by step as in ``advisor.execute.make``, with the same checks of what came out; the key of a step has the tool's
version in it, so another build makes its own artifact.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from advisor.backends.llama import commands
from advisor.backends.llama.binary import Binary
from advisor.backends.quantizers.gguf import BACKEND
from advisor.cost.gguf_mix import fallbacks
from advisor.errors import AdvisorError
from advisor.events import Event, safely
from advisor.execute import make
from advisor.execute.gguf_files import check_types, sound
from advisor.execute.make import Made, Making
from advisor.execute.proc import run
from advisor.facts.words import GGUF_FORMATS

QUANTIZE: Final = "llama-quantize"
IMATRIX: Final = "llama-imatrix"


def has(making: Making, name: str) -> bool:
    """Whether the provider of a making has the tool ``name``."""
    return making.binary is not None and name in making.binary.tools


def make_imatrix(
    making: Making,
    model: Path,
    text: Path,
    *,
    chunks: int = 64,
    context: int = 512,
    identity_of: str | None = None,
) -> Made:
    """An importance matrix of a 16-bit GGUF file over ``chunks`` pieces of ``context`` tokens of a text.

    Raises:
        AdvisorError: ``quantizer-failed``, ``artifact-invalid``, ``out-of-memory``, ``disk-full``, ``interrupted``.
    """
    binary = _binary(making)
    tool = binary.tools[IMATRIX]
    key = making.store.key(
        "imatrix",
        {"model": identity_of or make.identity(model), "text": make.identity(text)},
        params={"chunks": chunks, "context": context},
        tool=_known_as(binary, IMATRIX),
    )

    def build(tmp: Path) -> dict[str, Any]:
        out = tmp / "imatrix.gguf"
        argv = commands.imatrix(tool, model, text, out, chunks=chunks, context=context, threads=making.threads)
        _run(making, argv, "imatrix", key, total=chunks)
        if not out.is_file() or out.read_bytes()[:4] != b"GGUF":
            raise AdvisorError("artifact-invalid", f"{IMATRIX} ended well, but wrote no importance matrix.")
        return {"kind": "imatrix", "product": out.name, "chunks": chunks, "tool": binary.label}

    folder, reused = making.store.make(key, build, cancel=making.cancel)
    return Made(folder / "imatrix.gguf", key, making.store.manifest(folder), reused)


def quantize_gguf(
    making: Making,
    source: Path,
    fmt: str,
    *,
    name: str,
    imatrix: Path | None = None,
    identity_of: str | None = None,
    imatrix_identity: str | None = None,
    allow_requantize: bool = False,
) -> Made:
    """A GGUF file of the file type ``fmt`` from a 16-bit one; arguments, manifest and errors as ``make.quantize_gguf``.

    Raises:
        AdvisorError: ``bad-option``, ``quantizer-failed``, ``artifact-invalid``, ``out-of-memory``, ``disk-full``.
    """
    base = fmt.partition(":")[0]
    if base not in GGUF_FORMATS or base in make.PLAIN:
        raise AdvisorError("bad-option", f"{fmt} is not a quantized GGUF format.")
    binary = _binary(making)
    tool = binary.tools[QUANTIZE]
    planned = make.planned_types(source, fmt, imatrix=imatrix is not None)
    wanted = {a.tensor.name: a.type for a in planned}
    file = make.file_name(name, fmt)
    inputs: dict[str, object] = {"source": identity_of or make.identity(source)}
    if imatrix is not None:
        inputs["imatrix"] = imatrix_identity or make.identity(imatrix)
    key = making.store.key(
        "quantize",
        inputs,
        params={"format": fmt, "requantize": allow_requantize},
        tool=_known_as(binary, QUANTIZE),
    )

    def build(tmp: Path) -> dict[str, Any]:
        out = tmp / file
        argv = commands.quantize(
            tool, source, out, fmt, threads=making.threads, imatrix=imatrix, requantize=allow_requantize
        )
        _run(making, argv, "quantize", key, total=len(planned))
        header = sound(out)
        # The tool chooses types itself; a release may differ from the prediction in a few tensors.
        notes = check_types(header, wanted, fmt, exactly=False)
        return {
            "kind": "quantize",
            "product": file,
            "format": fmt,
            "bytes": header.file_bytes,
            "types": dict(Counter(t.type for t in header.tensors)),
            "fallbacks": fallbacks(planned),
            "imatrix": imatrix is not None,
            "notes": notes,
            "tool": f"{QUANTIZE} {binary.label}",
        }

    folder, reused = making.store.make(key, build, cancel=making.cancel)
    return Made(folder / file, key, making.store.manifest(folder), reused)


def _binary(making: Making) -> Binary:
    if making.binary is None:
        raise AdvisorError("tool-missing", "This provider of llama.cpp has no tools.")
    return making.binary


def _known_as(binary: Binary, name: str) -> str:
    """What a tool is known by: its version, and its file, because builds without a number look alike."""
    seen = Path(binary.tools[name]).stat()
    file = hashlib.sha256(f"{seen.st_size} {seen.st_mtime_ns}".encode()).hexdigest()[:16]
    return f"{name} {binary.label} {file}"


def _run(making: Making, argv: Sequence[str], step: str, key: str, *, total: int) -> None:
    say = safely(making.reporter)
    unit = "tensors" if step == "quantize" else "chunks"

    def hear(line: str) -> None:
        found = commands.read_progress(line)
        if found is not None:
            say(Event(kind="progress", step=step, done=found[0], total=found[1] or total, unit=unit))

    try:
        run(
            argv,
            log=making.logs / f"{key}.log",
            step=step,
            env=commands.ENVIRONMENT,
            cancel=making.cancel,
            on_line=hear,
            threads=making.threads,
            code="quantizer-failed",
        )
    except AdvisorError as e:
        known = BACKEND.diagnose("\n".join((e.message, *e.context)))
        if known is not None:
            e.context = (*e.context, f"diagnosis ({known.code}): {known.message}", f"remedy: {known.remedy}")
        raise
