"""Makes GGUF models, step by step: restore, convert, importance matrix, quantize, validate.

Every step is a function of the store, an environment and its inputs. Its result lies in the store under a key made of
the hashes of its inputs, its parameters, the pins of the environment and the runner's own text: the same call again
finds it. The 16-bit GGUF file is kept: it is what the artifact is verified against.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from advisor.backends.llama.binary import Binary
from advisor.cost.gguf_mix import Assigned, assign, fallbacks
from advisor.errors import AdvisorError
from advisor.events import Cancel, Reporter
from advisor.execute.disk import remove_tree
from advisor.execute.envs import Env
from advisor.execute.gguf_files import FLOATS, check_types, nonempty, sound
from advisor.execute.proc import RUNNERS, run_runner
from advisor.execute.store import Store, file_sha256
from advisor.facts.base import dumps_any
from advisor.facts.words import GGUF_FORMATS
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors

PLAIN: Final = ("f16", "bf16")
# What decides a conversion; other files of a checkpoint folder (pictures, read-mes) do not.
_PARTS: Final = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py")


class Made(NamedTuple):
    """What a step made: the file or folder, its key (the identity that later steps build on), what its manifest says,
    and whether it was there already."""

    path: Path
    key: str
    manifest: dict[str, Any]
    reused: bool


@dataclass(frozen=True, slots=True)
class Making:
    """What all steps need. ``threads``: ``None`` lets each tool choose. Logs go to ``logs``/KEY.log. ``binary``: a
    build of llama.cpp whose own tools measure and quantize, where it has them. ``variables``: of the runners'
    environment, such as which devices they see."""

    store: Store
    env: Env
    logs: Path
    threads: int | None = None
    reporter: Reporter | None = None
    cancel: Cancel | None = None
    binary: Binary | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def step(
        self,
        kind: str,
        runner: str,
        *,
        inputs: Mapping[str, object],
        params: Mapping[str, object],
        request: Callable[[Path], dict[str, Any]],
        product: str,
        check: Callable[[Path, dict[str, Any]], dict[str, Any]],
        resumes: bool = False,
    ) -> Made:
        """Find or make one artifact: run ``runner`` with what ``request(tmp)`` returns, then ``check(tmp, result)``,
        whose answer becomes the manifest. ``product`` is the file in the artifact, or ``"."`` for the folder.
        ``resumes``: the runner gets a folder that outlives a killed run, as ``"resume"``; it is gone once it is done.

        Raises:
            AdvisorError: ``quantizer-failed``, ``artifact-invalid``, ``out-of-memory``, ``disk-full``, ``interrupted``.
        """
        key = self.store.key(kind, inputs, params=params, tool=_tool(self.env, runner))

        kept = self.store.partial(key) if resumes else None

        def build(tmp: Path) -> dict[str, Any]:
            result = run_runner(
                self.env,
                runner,
                {**request(tmp), "threads": self.threads, **({"resume": str(kept)} if kept is not None else {})},
                step=kind,
                reporter=self.reporter,
                cancel=self.cancel,
                log=self.logs / f"{key}.log",
                threads=self.threads,
                variables=self.variables,
                code="quantizer-failed",
            )
            return {"kind": kind, "product": product, **check(tmp, result)}

        folder, reused = self.store.make(key, build, cancel=self.cancel)
        if kept is not None and not reused:
            remove_tree(kept)
        return Made(folder / product, key, self.store.manifest(folder), reused)


def _tool(env: Env, runner: str) -> str:
    text = hashlib.sha256((RUNNERS / runner).read_bytes() + (RUNNERS / "protocol.py").read_bytes()).hexdigest()[:16]
    return f"{env.name} {env.digest} {runner} {text}"


def identity(source: Path) -> str:
    """The content hash of a file, or of what counts of a checkpoint folder.

    Raises:
        AdvisorError: ``file-not-found``.
    """
    if source.is_file():
        return f"sha256:{file_sha256(source)}"
    files = sorted({p for pattern in _PARTS for p in source.glob(pattern) if p.is_file()})
    if not files:
        raise AdvisorError("file-not-found", f"{source} is neither a file nor a folder with a model in it.")
    return f"sha256:{hashlib.sha256(dumps_any([(p.name, file_sha256(p)) for p in files])).hexdigest()}"


def restore_checkpoint(making: Making, gguf: Path, *, identity_of: str | None = None, dtype: str = "float16") -> Made:
    """A 16-bit checkpoint folder of the weights in a GGUF file.

    Raises:
        AdvisorError: as ``Making.step``.
    """

    def check(tmp: Path, result: dict[str, Any]) -> dict[str, Any]:
        nonempty(tmp / "checkpoint" / "config.json")
        if not result["bytes"]:
            raise AdvisorError("artifact-invalid", f"Nothing was restored from {gguf.name}.")
        return {**_without(result, "out"), "from": gguf.name}

    def request(tmp: Path) -> dict[str, Any]:
        (tmp / "checkpoint").mkdir()
        return {"gguf": str(gguf), "out": str(tmp / "checkpoint"), "dtype": dtype}

    return making.step(
        "restore",
        "restore.py",
        inputs={"gguf": identity_of or identity(gguf)},
        params={"dtype": dtype},
        request=request,
        product="checkpoint",
        check=check,
    )


def convert_to_gguf(
    making: Making,
    folder: Path,
    *,
    name: str,
    outtype: str = "f16",
    identity_of: str | None = None,
    tokenizer_of: Path | None = None,
    packed: frozenset[str] = frozenset(),
) -> Made:
    """A 16-bit GGUF file of a checkpoint folder. ``tokenizer_of``: a GGUF file whose tokenizer it must have.
    ``packed``: types in which the folder has weights that the converter keeps as they are, and which there must be.

    Raises:
        AdvisorError: as ``Making.step``; also ``remote-code-refused`` and ``pickle-refused``.
    """
    file = f"{file_stem(name)}-{outtype}.gguf"

    def check(tmp: Path, result: dict[str, Any]) -> dict[str, Any]:
        if result["differences"]:
            raise AdvisorError(
                "artifact-invalid",
                f"The tokenizer did not survive the way through a checkpoint: {'; '.join(result['differences'])}.",
                context=[str(tokenizer_of)],
            )
        header = sound(tmp / file)
        stored = Counter(t.type for t in header.tensors)
        if outtype not in stored or not set(stored) - packed <= FLOATS or not packed <= set(stored):
            raise AdvisorError("artifact-invalid", f"{outtype} was asked for; the file has {dict(stored)}.")
        return {**_without(result, "out"), "format": outtype, "bytes": header.file_bytes}

    return making.step(
        "convert",
        "convert.py",
        inputs={"folder": identity_of or identity(folder)},
        params={"outtype": outtype, "name": name, "tokenizer": tokenizer_of is not None},
        request=lambda tmp: {
            "folder": str(folder),
            "out": str(tmp / file),
            "outtype": outtype,
            "name": name,
            "tokenizer_of": str(tokenizer_of) if tokenizer_of else None,
        },
        product=file,
        check=check,
    )


def make_imatrix(
    making: Making,
    folder: Path,
    text: Path,
    *,
    chunks: int = 64,
    context: int = 512,
    dataset: str | None = None,
    identity_of: str | None = None,
) -> Made:
    """An importance matrix of a checkpoint folder over ``chunks`` pieces of ``context`` tokens of a text.

    Raises:
        AdvisorError: as ``Making.step``.
    """

    def check(tmp: Path, result: dict[str, Any]) -> dict[str, Any]:
        nonempty(tmp / "imatrix.gguf")
        return _without(result, "out")

    return making.step(
        "imatrix",
        "imatrix.py",
        inputs={"folder": identity_of or identity(folder), "text": identity(text)},
        params={"chunks": chunks, "context": context},
        request=lambda tmp: {
            "folder": str(folder),
            "text": str(text),
            "out": str(tmp / "imatrix.gguf"),
            "chunks": chunks,
            "context": context,
            "dataset": dataset or text.name,
        },
        product="imatrix.gguf",
        check=check,
    )


def planned_types(source: Path, fmt: str, *, imatrix: bool) -> tuple[Assigned, ...]:
    """What each tensor of a 16-bit GGUF file will become, before anything is quantized.

    Raises:
        AdvisorError: ``bad-option`` for an unknown format; as ``advisor.model.resolve``.
    """
    model = resolve(str(source))
    return assign(model, tensors(model), fmt, imatrix=imatrix)


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
    """A GGUF file of the file type ``fmt``, from a 16-bit one (``f16`` and ``bf16`` are made by ``convert_to_gguf``);
    ``q4_k_m:ffn_down=q6_k`` gives named tensors a type of their own.

    The manifest has ``types`` (tensors by type), ``fallbacks`` (``"q4_k->q5_0": count``: rows that do not divide into
    blocks of the wanted type), ``worst`` (largest relative error of a tensor) and ``notes``.

    Raises:
        AdvisorError: ``bad-option``; ``artifact-invalid`` where the file is not what was asked for; as ``Making.step``.
    """
    base = fmt.partition(":")[0]
    if base not in GGUF_FORMATS or base in PLAIN:
        known = ", ".join(f for f in GGUF_FORMATS if f not in PLAIN)
        raise AdvisorError("bad-option", f"{fmt} is not a quantized GGUF format.", context=[f"formats: {known}"])
    planned = planned_types(source, fmt, imatrix=imatrix is not None)
    wanted = {a.tensor.name: a.type for a in planned}
    file = file_name(name, fmt)
    by_rows = imatrix is not None or base != fmt
    inputs: dict[str, object] = {"source": identity_of or identity(source)}
    if imatrix is not None:
        inputs["imatrix"] = imatrix_identity or identity(imatrix)

    def check(tmp: Path, result: dict[str, Any]) -> dict[str, Any]:
        header = sound(tmp / file)
        notes = check_types(header, wanted, fmt, exactly=by_rows)
        missing = result["imatrix_missing"]
        if imatrix is not None and not result["imatrix_used"]:
            raise AdvisorError("artifact-invalid", "The importance matrix has no tensor of this model.")
        return {
            **_without(result, "out", "types", "imatrix_missing"),
            "format": fmt,
            "bytes": header.file_bytes,
            "types": dict(Counter(t.type for t in header.tensors)),
            "fallbacks": fallbacks(planned),
            "imatrix": imatrix is not None,
            "imatrix_missing": len(missing),
            "notes": notes,
        }

    return making.step(
        "quantize",
        "quantize.py",
        inputs=inputs,
        params={"format": fmt, "types": wanted, "requantize": allow_requantize},
        request=lambda tmp: {
            "source": str(source),
            "out": str(tmp / file),
            "format": base,
            "types": wanted,
            "by_rows": by_rows,
            "imatrix": str(imatrix) if imatrix else None,
            "imatrix_name": "imatrix.gguf" if imatrix else None,
            "allow_requantize": allow_requantize,
        },
        product=file,
        check=check,
    )


def validate_artifact(
    env: Env,
    path: Path,
    *,
    log: Path,
    prompt: str = "The capital of France is",
    tokens: int = 8,
    threads: int | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Really load a GGUF file with the runtime (``env``: the one that serves) and decode some tokens.

    Returns the answer, its seconds, and the spread of the logits.

    Raises:
        AdvisorError: ``artifact-invalid`` where it does not load, decode or give finite logits.
    """
    sound(path)
    return run_runner(
        env,
        "validate.py",
        {"path": str(path), "prompt": prompt, "tokens": tokens, "threads": threads},
        step="validate",
        reporter=reporter,
        cancel=cancel,
        log=log,
        threads=threads,
        code="artifact-invalid",
    )


def file_name(name: str, fmt: str) -> str:
    """What a quantized file is called; of a mix of types the file type's name with ``-mixed`` behind it."""
    base, _, own = fmt.partition(":")
    return f"{file_stem(name)}-{base}{'-mixed' if own else ''}.gguf"


def file_stem(name: str) -> str:
    """A model name as a file name: letters, digits, ``.``, ``-`` and ``_`` only, at most 80 characters."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    return kept.strip(".-")[:80] or "model"


def _without(result: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in result.items() if k not in keys}
