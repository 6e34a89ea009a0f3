"""Builds too old to be given a model file: profiles/floors/*.yaml."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from advisor import datafiles
from advisor.backends.llama.binary import Binary
from advisor.errors import AdvisorError
from advisor.facts.base import Shape, from_json


class Floor(Shape, frozen=True, kw_only=True):
    """A hole (``id``, its public number) that builds from ``min_build`` on do not have."""

    id: str
    min_build: int
    because: str


class Floors(Shape, frozen=True, kw_only=True):
    """All floors of one runtime."""

    runtime: str
    source: str
    floors: tuple[Floor, ...]


@cache
def floors(runtime: str) -> tuple[Floor, ...]:
    """The floors of a runtime, highest first; none where there is no file.

    Raises:
        AdvisorError: ``bad-profile``.
    """
    import yaml

    path = datafiles.profiles_dir("floors") / f"{runtime}.yaml"
    if not path.is_file():
        return ()
    try:
        data: Any = datafiles.read_yaml(path)
        found = from_json(Floors, data).floors
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as e:
        raise AdvisorError("bad-profile", f"{path} does not load: {e}") from e
    return tuple(sorted(found, key=lambda f: -f.min_build))


def below(binary: Binary, runtime: str = "llama.cpp") -> tuple[Floor, ...]:
    """The floors that a build is below. A build that does not know its number is below none: it cannot be told."""
    if binary.number is None or binary.version is not None:
        return ()
    return tuple(f for f in floors(runtime) if binary.number < f.min_build)


def refusal(binary: Binary) -> AdvisorError | None:
    """The error of a build below a floor."""
    holes = below(binary)
    if not holes:
        return None
    return AdvisorError(
        "runtime-vulnerable",
        f"llama.cpp {binary.label} in {binary.server} is older than build {holes[0].min_build} and open to "
        f"{', '.join(f.id for f in holes)}; it is given no model.",
        context=[f"{f.id}: {f.because}" for f in holes],
        hint="advisor up --provider wheel",
        data={"program": binary.server, "build": binary.number, "floors": [f.id for f in holes]},
    )
