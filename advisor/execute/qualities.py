"""What verifications measured, kept by model, so that later plans say it in place of what was predicted.

A model is its weights, wherever they lie and whatever they are called; until they are here it is its name and revision.
One small file under the state folder for each. Quality is the artifact's, whatever machine it was measured on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from advisor.facts.base import dumps_any, loads
from advisor.facts.model import ModelFacts
from advisor.facts.results import MeasuredQualities, MeasuredQuality, Verification
from advisor.settings import Settings

FOLDER: Final = "qualities"
MOST: Final = 100
_MOST_BYTES: Final = 4 << 20
# Of weights so many pieces are read, spread evenly over all files: another training, another layer or other types show
# in some of them, and reading them costs milliseconds. Reading all would take longer than planning.
PIECES: Final = 128
_PIECE: Final = 512
_HEAD: Final = 1 << 16
Key = tuple[str, str, bool]


def fingerprint(path: Path) -> str | None:
    """What weights are told by: the sizes of their files, the beginning of each, and pieces of all they hold.

    ``None`` where there are none, or they cannot be read. Names, places and times of files say nothing.
    """
    try:
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        sizes = [f.stat().st_size for f in files]
        if not any(sizes):
            return None
        found = hashlib.sha256(dumps_any(sizes))
        step = max(_PIECE, sum(sizes) // PIECES)
        for file, size in zip(files, sizes, strict=True):
            with file.open("rb") as f:
                found.update(f.read(_HEAD))
                for at in range(_HEAD, size, step):
                    f.seek(at)
                    found.update(f.read(_PIECE))
        return found.hexdigest()
    except OSError:
        return None


def identities(model: ModelFacts) -> tuple[list[object], ...]:
    """What a model is known by, the surest first: its weights where they are here, and its name if it has one."""
    weights = fingerprint(Path(model.path)) if model.path is not None and model.weights_format != "none" else None
    named: list[object] = [model.ref, model.revision]
    if weights is None:
        return (named,)
    return (["weights", weights],) if model.kind in ("folder", "gguf") else (["weights", weights], named)


def identity(model: ModelFacts) -> list[object]:
    """What tells a model from all others: its weights, or its name and revision where they are not here."""
    return identities(model)[0]


def path_of(settings: Settings, model: ModelFacts) -> Path:
    """The file of a model."""
    return _path(settings, identity(model))


def _path(settings: Settings, of: list[object]) -> Path:
    return Path(settings.paths.state) / FOLDER / f"{hashlib.sha256(dumps_any(of)).hexdigest()[:24]}.json"


def load(settings: Settings, model: ModelFacts) -> Mapping[Key, Verification]:
    """Verifications of ``model`` by method, format and importance matrix; empty where there are none.

    A file that cannot be understood counts as none; the next verification writes it anew.
    """
    if not (Path(settings.paths.state) / FOLDER).is_dir():  # nothing was verified yet: no weights are looked at
        return {}
    kept = [m for of in reversed(identities(model)) for m in _read(_path(settings, of))]
    return {(m.method, m.format, m.imatrix): m.verification for m in kept}


def _read(path: Path) -> tuple[MeasuredQuality, ...]:
    try:
        with path.open("rb") as f:
            return loads(MeasuredQualities, f.read(_MOST_BYTES)).qualities
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()


def keep(
    settings: Settings,
    model: ModelFacts,
    *,
    method: str,
    fmt: str,
    imatrix: bool,
    verification: Verification,
    local: ModelFacts | None = None,
) -> None:
    """Keep a verification against the original; one without an original says nothing of the loss and is left out.

    ``local``: the same model with its weights here, where ``model`` was named before they were.

    Raises:
        AdvisorError: ``not-writable``, ``disk-full``, ``busy``.
    """
    if verification.kld is None:
        return
    from advisor.execute.disk import make_folders, write_atomic
    from advisor.execute.locks import locked
    from advisor.execute.measurements import now

    one = MeasuredQuality(
        method=method,
        format=fmt,
        imatrix=imatrix,
        verification=msgspec.structs.replace(verification, prompts=()),
        measured_at=now(),
    )
    known_as = (*(identities(local) if local is not None else ()), *identities(model))
    for path in dict.fromkeys(_path(settings, of) for of in known_as):
        make_folders(path.parent)
        with locked(path.with_suffix(".lock"), wait_s=10.0):
            others = [m for m in _read(path) if (m.method, m.format, m.imatrix) != (method, fmt, imatrix)]
            write_atomic(path, MeasuredQualities(model=model.name, qualities=tuple([*others, one][-MOST:])).dumps())
