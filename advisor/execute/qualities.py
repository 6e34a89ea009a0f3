"""What verifications measured, kept by model, so that later plans say it in place of what was predicted.

One file a model under the state folder. Quality is the artifact's, whatever machine it was measured on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
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
Key = tuple[str, str, bool]


def identity(model: ModelFacts) -> list[object]:
    """What tells a model from another of its name: its revision, or the files here, by size and time."""
    if model.path is None or model.kind not in ("folder", "gguf"):
        return [model.ref, model.revision]
    path = Path(model.path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    found: list[object] = [str(path)]
    for file in files:
        with suppress(OSError):
            st = file.stat()
            found.append((file.name, st.st_size, st.st_mtime_ns))
    return found


def path_of(settings: Settings, model: ModelFacts) -> Path:
    """The file of a model."""
    return Path(settings.paths.state) / FOLDER / f"{hashlib.sha256(dumps_any(identity(model))).hexdigest()[:24]}.json"


def load(settings: Settings, model: ModelFacts) -> Mapping[Key, Verification]:
    """Verifications of ``model`` by method, format and importance matrix; empty where there are none.

    A file that cannot be understood counts as none; the next verification writes it anew.
    """
    return {(m.method, m.format, m.imatrix): m.verification for m in _read(path_of(settings, model))}


def _read(path: Path) -> tuple[MeasuredQuality, ...]:
    try:
        with path.open("rb") as f:
            return loads(MeasuredQualities, f.read(_MOST_BYTES)).qualities
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()


def keep(
    settings: Settings, model: ModelFacts, *, method: str, fmt: str, imatrix: bool, verification: Verification
) -> None:
    """Keep a verification against the original; one without an original says nothing of the loss and is left out.

    Raises:
        AdvisorError: ``not-writable``, ``disk-full``, ``busy``.
    """
    if verification.kld is None:
        return
    from advisor.execute.disk import make_folders, write_atomic
    from advisor.execute.locks import locked
    from advisor.execute.measurements import now

    path = path_of(settings, model)
    make_folders(path.parent)
    one = MeasuredQuality(
        method=method,
        format=fmt,
        imatrix=imatrix,
        verification=msgspec.structs.replace(verification, prompts=()),
        measured_at=now(),
    )
    with locked(path.with_suffix(".lock"), wait_s=10.0):
        others = [m for m in _read(path) if (m.method, m.format, m.imatrix) != (method, fmt, imatrix)]
        write_atomic(path, MeasuredQualities(model=model.name, qualities=tuple([*others, one][-MOST:])).dumps())
