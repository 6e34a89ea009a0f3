"""Loads the goals: profiles/goals/*.yaml and the user's own."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, Final

import msgspec

from advisor import datafiles
from advisor._version import __version__
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.plan import Goal

SCHEMA: Final = "advisor/goal/v1"
TERMS: Final = ("quality", "speed", "memory", "time", "disk")
_REASONED: Final = ("context", "parallel", "min_decode_tps", "weights")
_KEYS: Final = ("schema", "id", "description", *_REASONED, "because", "reasons", "sources")
_CACHE_FORMAT: Final = 2


def load(
    overlay: Path | None = None, *, cache_dir: Path | None = None, broken: list[AdvisorError] | None = None
) -> dict[str, Goal]:
    """All goals by id, the user's own after and over the bundled ones.

    Args:
        broken: takes what is wrong with files of the user's own, which are left out then.
        overlay: the user's folder of goals.
        cache_dir: where the checked goals are kept under their content hash, so that YAML is read once.

    Raises:
        AdvisorError: ``bad-profile`` with file, line and key.
    """
    files = datafiles.data_files(datafiles.profiles_dir("goals"), *([overlay] if overlay else []))
    key = hashlib.sha256(f"{_CACHE_FORMAT}\0{__version__}\0{datafiles.content_hash(files)}".encode()).hexdigest()[:32]
    cached = cache_dir / f"goals-v{_CACHE_FORMAT}-{key}.json" if cache_dir is not None else None
    if cached is not None:
        try:
            return msgspec.json.decode(cached.read_bytes(), type=dict[str, Goal])
        except (OSError, msgspec.MsgspecError):
            pass
    goals: dict[str, Goal] = {}
    whole = True
    for path in files:
        try:
            goal = _read(path)
        except AdvisorError as e:
            if broken is None or overlay is None or not path.is_relative_to(overlay):
                raise
            broken.append(e)
            whole = False
        else:
            goals[goal.id] = goal
    if cached is not None and whole:
        aside = cached.with_name(f".{cached.name}.{os.getpid()}")
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(msgspec.json.encode(goals))
            aside.replace(cached)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()
    return goals


def get(name: str, *, overlay: Path | None = None, cache_dir: Path | None = None) -> Goal:
    """One goal. A file of the user's own that does not load is told where the goal is not found without it.

    Raises:
        AdvisorError: ``goal-not-found`` with near misses, or ``bad-profile``.
    """
    broken: list[AdvisorError] = []
    goals = load(overlay, cache_dir=cache_dir, broken=broken)
    if name not in goals:
        raise AdvisorError(
            "goal-not-found",
            f"There is no goal {name!r}.{did_you_mean(name, sorted(goals))}",
            context=[f"known: {', '.join(sorted(goals))}", *(f"left out: {e.message}" for e in broken)],
            hint="advisor goals list",
        )
    return goals[name]


def _read(path: Path) -> Goal:
    from advisor.guide.parse import Bad, sources
    from advisor.guide.yamlfile import YamlProblem, read

    def fail(line: int, where: str, message: str) -> AdvisorError:
        return AdvisorError("bad-profile", f"{path}:{line}: {where + ': ' if where else ''}{message}")

    try:
        doc = read(path)
    except YamlProblem as e:
        raise fail(e.line, e.path, e.message) from e
    data = doc.value
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise fail(1, "schema", f"the schema is {SCHEMA!r}")
    for key in data:
        if key not in _KEYS:
            raise fail(doc.line(key), key, f"there is no key {key!r} of a goal.{did_you_mean(key, list(_KEYS))}")
    try:
        cited = sources(data.get("sources"), "sources")
        goal = msgspec.convert({k: v for k, v in data.items() if k not in ("schema", "sources")}, Goal)
    except Bad as e:
        raise fail(doc.line(e.path), e.path, e.message) from e
    except msgspec.ValidationError as e:
        raise fail(1, "", str(e)) from e
    problem = _wrong(goal)
    if problem:
        raise fail(doc.line(problem[0]), *problem)
    return msgspec.structs.replace(goal, sources=cited)


def _wrong(goal: Goal) -> tuple[str, str] | None:
    weights: dict[str, Any] = dict(goal.weights)
    for term in weights:
        if term not in TERMS:
            return f"weights.{term}", f"there is no term {term!r}.{did_you_mean(term, list(TERMS))}"
    if set(weights) != set(TERMS) or any(not 0 <= w <= 1 for w in weights.values()):
        return "weights", f"weights are numbers from 0 to 1 for each of {', '.join(TERMS)}"
    if abs(sum(weights.values()) - 1) > 1e-9:
        return "weights", f"weights sum to 1, not to {sum(weights.values()):g}"
    for name in goal.reasons:
        if name not in _REASONED:
            return (
                f"reasons.{name}",
                f"a goal has no {name!r} to give reasons for.{did_you_mean(name, list(_REASONED))}",
            )
    if not 1 <= goal.context <= 16_777_216:
        return "context", "context is from 1 to 16777216 tokens"
    if not 1 <= goal.parallel <= 4096:
        return "parallel", "parallel is from 1 to 4096 requests"
    return None
