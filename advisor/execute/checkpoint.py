"""Makes quantized checkpoints: runs a quantizer's runner as a step of the store, and judges what it wrote.

Nothing heavy is imported to judge: the configuration, the headers of the weights and the sizes tell whether what lies
there is what was asked for. Whether it loads and what it is worth is measured with the runtime that will serve it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from advisor.backends.methods import CHOICES
from advisor.backends.registry import quantizers
from advisor.cost.formats import checkpoint
from advisor.errors import AdvisorError
from advisor.execute.disk import write_atomic
from advisor.execute.make import Made, Making, file_stem, identity
from advisor.execute.proc import RUNNERS
from advisor.facts.base import loads
from advisor.facts.model import ModelFacts
from advisor.facts.recipe import Recipe
from advisor.facts.results import Finding
from advisor.facts.text import clean
from advisor.facts.words import GROUPED_FORMAT
from advisor.model import quantized
from advisor.model.jsonfile import read_object
from advisor.model.resolve import resolve
from advisor.model.safetensors import DTYPE_BITS, SafeTensor, read_header
from advisor.model.tensors import tensors

PRODUCT: Final = "checkpoint"
# Beside the weights: what they were made by, which their own configuration tells in part only.
RECIPE_FILE: Final = "advisor-recipe.json"
# What runners of quantizers import; part of the step's key, beside the runner itself.
SHARED: Final = ("quantizing.py", "native.py", "quantize_gptqmodel.py")
# The library that keeps finished layers of a run that was killed.
RESUMES: Final = "gptqmodel"
SIZE_TOLERANCE: Final = 0.01
_PLAIN_SUFFIXES: Final = frozenset(
    (".safetensors", ".json", ".txt", ".jinja", ".model", ".yaml", ".yml", ".md", ".tiktoken")
)
# The last part of the name that codes have, by who writes them; what is packed has no plain ``.weight`` beside it.
_CODES: Final = (".weight_packed", ".qweight")
_WHOLE: Final = frozenset(("I8", "U8", "F8_E4M3", "F8_E4M3FNUZ"))  # codes stored under the name of the weight
_LOG_TAIL: Final = 64 << 10


class Written(NamedTuple):
    """What the weights of a checkpoint are: bytes of tensors, matrices that are packed, bytes by type."""

    tensor_bytes: int
    file_bytes: int
    packed: int
    types: dict[str, int]


def quantize_checkpoint(
    making: Making,
    folder: Path,
    recipe: Recipe,
    *,
    name: str,
    calibration: Path | None = None,
    identity_of: str | None = None,
) -> Made:
    """A quantized checkpoint folder of the 16-bit checkpoint ``folder``.

    ``making.env`` is the quantizer's environment. The manifest has ``method``, ``format``, ``quantizer``, ``recipe``,
    ``bytes`` (of the weights), ``predicted_bytes``, ``packed`` (matrices), ``notes``, and what the runner measured:
    ``seconds``, ``peak_bytes``, ``samples``, ``tokens``, ``versions`` and others (see ``runners/quantizing.py``).

    Args:
        calibration: JSON lines of text, for recipes with samples.
        identity_of: content hash of ``folder``, where it is known.

    Raises:
        AdvisorError: ``not-available`` (the quantizer has no runner), ``illegal-recipe`` (no text for a recipe with
            samples), ``quantizer-failed`` (with ``data.finding`` where the log shows a known failure),
            ``artifact-invalid``; as ``Making.step``.
    """
    backend = quantizers().get(recipe.quantizer)
    if backend is None or backend.runner is None:
        raise AdvisorError(
            "not-available",
            f"This version of advisor plans with {clean(recipe.quantizer, 40)} but cannot start it.",
            hint="advisor env list",
        )
    if recipe.samples and calibration is None:
        raise AdvisorError(
            "illegal-recipe",
            f"{recipe.method} looks at {recipe.samples} samples of text, and none were given.",
            hint=f"advisor quantize MODEL --method {recipe.method} --calibration FILE",
        )
    inputs: dict[str, object] = {"folder": identity_of or identity(folder)}
    if recipe.samples and calibration is not None:
        inputs["calibration"] = identity(calibration)

    def request(tmp: Path) -> dict[str, Any]:
        (tmp / PRODUCT).mkdir()
        return {
            "folder": str(folder),
            "out": str(tmp / PRODUCT),
            "recipe": recipe.to_json(),
            "calibration": str(calibration) if recipe.samples else None,
        }

    def check(tmp: Path, result: dict[str, Any]) -> dict[str, Any]:
        out = tmp / PRODUCT
        found, notes = judge(out, recipe, source=folder, result=result)
        write_atomic(out / RECIPE_FILE, recipe.dumps())
        return {
            **{k: v for k, v in result.items() if k not in ("out", "bytes", "notes")},
            "name": file_stem(name),
            "method": recipe.method,
            "format": recipe.format,
            "quantizer": recipe.quantizer,
            "recipe": recipe.to_json(),
            "bytes": found.file_bytes,
            "tensor_bytes": found.tensor_bytes,
            "predicted_bytes": predicted_bytes(folder, recipe),
            "packed": found.packed,
            "types": found.types,
            "notes": [*(clean(str(n), 500) for n in result.get("notes") or ()), *notes],
        }

    try:
        return making.step(
            "quantize",
            backend.runner,
            inputs=inputs,
            params={"recipe": recipe.to_json(), "shared": [_hash(RUNNERS / name) for name in SHARED]},
            request=request,
            product=PRODUCT,
            check=check,
            resumes=RESUMES in backend.runner,
        )
    except AdvisorError as e:
        raise explained(e, recipe) from e


def explained(error: AdvisorError, recipe: Recipe) -> AdvisorError:
    """The same failure with the quantizer's diagnosis: its remedy as the hint, itself in ``data.finding``."""
    backend = quantizers().get(recipe.quantizer)
    if backend is None or error.code not in ("quantizer-failed", "out-of-memory", "artifact-invalid", "step-failed"):
        return error
    told = "\n".join((*error.context, error.message))
    finding: Finding | None = backend.diagnose(told) or backend.diagnose(_tail(error.data.get("log")))
    if finding is None:
        return error
    code = "out-of-memory" if finding.code == "out-of-memory" else error.code
    return AdvisorError(
        code,
        error.message,
        context=(finding.message, *error.context),
        hint=finding.remedy,
        data={**error.data, "finding": finding.to_json()},
    )


def _tail(log: object) -> str:
    try:
        with Path(str(log)).open("rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - _LOG_TAIL))
            return f.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""


def judge(
    out: Path, recipe: Recipe, *, source: Path, result: Mapping[str, Any] | None = None
) -> tuple[Written, list[str]]:
    """Hold a written checkpoint against its recipe and its source; return what it is, and notes.

    Raises:
        AdvisorError: ``artifact-invalid``: what was found and what was asked for.
    """
    _files_only(out)
    config = _config(out)
    said = quantized.read(config.get("quantization_config"))
    _says(config, recipe, said)
    found, unpacked = _weights(out)
    if not found.packed:
        raise _invalid(f"{recipe.format} was asked for, but no matrix is packed: {_types(found)}.")
    if result is not None:
        bad = result.get("non_finite")
        if bad:
            raise _invalid(f"{bad} values are not finite (NaN or infinite).")
        wanted = result.get("quantized")
        if isinstance(wanted, int) and wanted != found.packed:
            raise _invalid(f"The quantizer quantized {wanted} matrices; {found.packed} are packed in the files.")
    _complete(out, source)
    notes = []
    expected = predicted_bytes(source, recipe)
    if abs(found.tensor_bytes - expected) > SIZE_TOLERANCE * expected:
        ratio = found.tensor_bytes / expected
        if not 0.5 < ratio < 1.5:
            raise _invalid(f"The weights have {found.tensor_bytes:,} bytes; {expected:,} were expected.")
        notes.append(f"the weights have {found.tensor_bytes:,} bytes, {ratio - 1:+.1%} of what was predicted")
    stray = [n for n in unpacked if not any(i in n for i in recipe.ignore)]
    if len(stray) > max(2, found.packed // 20):
        notes.append(f"{len(stray)} matrices of the layers stayed in 16 bits, {clean(stray[0], 120)} among them")
    return found, notes


def predicted_bytes(source: Path, recipe: Recipe) -> int:
    """Bytes of tensors that ``recipe`` makes of the checkpoint ``source``, from its configuration alone."""
    model = resolve(str(source))
    return int(checkpoint(model, tensors(model), recipe.method, recipe.format, recipe=recipe).total.value)


def kept_recipe(folder: Path) -> Recipe | None:
    """The recipe that lies beside the weights of what advisor made; ``None`` for other checkpoints."""
    try:
        return loads(Recipe, (folder / RECIPE_FILE).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def recipe_of_facts(facts: ModelFacts) -> Recipe | None:
    """What a checkpoint's own configuration tells of how it was quantized; ``None`` where it tells of no known format.

    16-bit weights are method ``none``.

    Raises:
        AdvisorError: as ``jsonfile.read_object``.
    """
    method, fmt = facts.quantized_method, facts.quantized_format
    if method is None and not any(n.startswith("already quantized") for n in facts.notes):
        method, fmt = "none", "f16" if facts.weights_dtype == "f16" else "bf16"
    if method is None or fmt is None:
        return None
    config = Path(facts.path) / "config.json" if facts.path is not None else None
    said = read_object(config).get("quantization_config") if config is not None and config.is_file() else None
    found = GROUPED_FORMAT.match(fmt)
    return Recipe(
        method=method,  # type: ignore[arg-type]
        format=fmt,
        quantizer="unknown",
        bits=int(found["bits"] or found["hbits"]) if found else CHOICES[method].bits[0],
        group_size=int(found["group"] or found["hgroup"]) if found else None,
        ignore=tuple(dict.fromkeys(("lm_head", *quantized.left_out(said)))),
    )


def _invalid(message: str, *context: str) -> AdvisorError:
    return AdvisorError("artifact-invalid", message, context=context)


def _files_only(out: Path) -> None:
    """Weights and texts: nothing that runs when it is read."""
    for path in sorted(out.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise _invalid(f"{clean(path.name, 80)} is a link or a special file.")
        if path.is_file() and path.suffix.lower() not in _PLAIN_SUFFIXES:
            raise _invalid(f"{clean(path.name, 80)} does not belong in a checkpoint: pickles and code are not kept.")


def _config(out: Path) -> dict[str, Any]:
    try:
        config = read_object(out / "config.json")
    except AdvisorError as e:
        raise _invalid(f"config.json was not written, or is not usable: {e.message}") from e
    if config.get("auto_map"):
        raise _invalid("config.json wants to run code of its own.")
    return config


def _says(config: Mapping[str, Any], recipe: Recipe, said: quantized.Quantized) -> None:
    """Whether ``quantization_config`` says what was asked for.

    The compressed-tensors form does not name the algorithm: of AWQ, GPTQ and rounding only the format is compared.
    """
    told = config.get("quantization_config")
    if not isinstance(told, Mapping):
        raise _invalid("config.json has no quantization_config: the weights were saved as they were.")
    kind = str(told.get("quant_method", "")).lower()
    same = said.format == recipe.format
    if kind in ("awq", "gptq", "bitsandbytes"):
        same = same and said.method == recipe.method
    if not same:
        seen = clean(f"{kind} {said.method or '?'} {said.format or '?'}", 80)
        raise _invalid(f"{recipe.method} {recipe.format} was asked for; config.json says {seen}.")
    symmetric = told.get("sym", _symmetric(told))
    if isinstance(symmetric, bool) and recipe.method in ("awq", "gptq", "rtn") and symmetric != recipe.symmetric:
        words = {True: "symmetric", False: "asymmetric"}
        raise _invalid(f"{words[recipe.symmetric]} weights were asked for; config.json says {words[symmetric]}.")


def _symmetric(told: Mapping[str, Any]) -> object:
    groups = told.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    return weights.get("symmetric") if isinstance(weights, Mapping) else None


def _weights(out: Path) -> tuple[Written, list[str]]:
    """What the headers say; and the names of matrices in layers that are not packed."""
    files = sorted(out.glob("*.safetensors"))
    if not files:
        raise _invalid("No weights were written.")
    found: dict[str, SafeTensor] = {}
    for file in files:
        try:
            found.update(read_header(file).tensors)
        except AdvisorError as e:
            raise _invalid(f"{file.name} is not usable: {e.message}") from e
    types: dict[str, int] = {}
    packed = 0
    for key, t in found.items():
        types[t.dtype] = types.get(t.dtype, 0) + t.elements * DTYPE_BITS[t.dtype] // 8
        packed += key.endswith(_CODES) or (key.endswith(".weight") and t.dtype in _WHOLE)
    unpacked = [k for k, t in found.items() if ".layers." in k and k.endswith("_proj.weight") and t.dtype not in _WHOLE]
    return Written(sum(types.values()), sum(f.stat().st_size for f in files), packed, types), unpacked


def _types(found: Written) -> str:
    return ", ".join(f"{k} {v:,} bytes" for k, v in sorted(found.types.items()))


def _complete(out: Path, source: Path) -> None:
    """The tokenizer and the chat template of the source are there, byte for byte."""
    for name in ("tokenizer.json", "tokenizer.model", "chat_template.jinja"):
        was, now = source / name, out / name
        if was.is_file() and (not now.is_file() or now.read_bytes() != was.read_bytes()):
            raise _invalid(f"{name} is not that of the source.")
