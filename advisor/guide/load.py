"""Loads the rule files, bundled and the user's own; keeps the checked pack in a cache so that YAML is read once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from advisor import datafiles
from advisor._version import __version__
from advisor.guide.schema import Problem, Rule, RulePack

_CACHE_FORMAT: Final = 1


def load_pack(*, overlay: Path | None = None, cache_dir: Path | None = None, bundled: Path | None = None) -> RulePack:
    """Load every rule. A file or rule that is wrong is left out and reported in ``problems``; the others load.

    Args:
        overlay: the user's own rule folder; its rules win over the guide and may disable its rules, never the facts.
        cache_dir: where the checked pack is kept under its content hash; ``None``: nowhere.
        bundled: another folder than the bundled rules.
    """
    base = bundled if bundled is not None else datafiles.rules_dir()
    files = datafiles.data_files(base)
    own = datafiles.data_files(overlay) if overlay is not None else []
    key = _hash(files, own)
    cached = _read_cache(cache_dir, key)
    if cached is not None:
        return cached
    pack = _load(files, own, base, overlay, key)
    _write_cache(cache_dir, pack)
    return pack


def _hash(files: list[Path], own: list[Path]) -> str:
    import hashlib

    h = hashlib.sha256(f"{_CACHE_FORMAT}\0{__version__}\0".encode())
    for group in (files, own):
        h.update(_safe_hash(group).encode())
    return h.hexdigest()


def _safe_hash(files: list[Path]) -> str:
    """As ``datafiles.content_hash``, but bounded: a file beyond the limit counts by its size alone."""
    import hashlib

    from advisor.guide.yamlfile import MAX_BYTES

    rows = []
    for path in files:
        try:
            with path.open("rb") as f:
                raw = f.read(MAX_BYTES + 1)
        except OSError as e:
            raw = f"unreadable {e.errno}".encode()
        rows.append((path.name, hashlib.sha256(raw).hexdigest()))
    return hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()


def _cache_file(cache_dir: Path, key: str) -> Path:
    return cache_dir / f"v{_CACHE_FORMAT}-{key[:32]}.json"


def _read_cache(cache_dir: Path | None, key: str) -> RulePack | None:
    if cache_dir is None:
        return None
    try:
        pack = msgspec.json.decode(_cache_file(cache_dir, key).read_bytes(), type=RulePack)
    except (OSError, msgspec.MsgspecError):
        return None
    return pack if pack.content_hash == key else None


def _write_cache(cache_dir: Path | None, pack: RulePack) -> None:
    """Keep the pack, written aside and renamed into place. A cache that cannot be written is only slower."""
    if cache_dir is None:
        return
    target = _cache_file(cache_dir, pack.content_hash)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(msgspec.json.encode(pack))
        aside.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()


def _load(files: list[Path], own: list[Path], base: Path, overlay: Path | None, key: str) -> RulePack:
    rules: list[Rule] = []
    problems: list[Problem] = []
    disabled: list[tuple[str, str]] = []
    for path, root, is_own in [(p, base, False) for p in files] + [(p, overlay, True) for p in own]:
        found, off, wrong = read_file(path, root, overlay=is_own)
        rules += found
        disabled += [(rule_id, _shown_name(path, root)) for rule_id in off]
        problems += wrong
    rules, clashes = _unique(rules)
    problems += clashes
    rules, gone, refused = _disable(rules, disabled)
    problems += refused
    rules, refused = _check_overrides(rules)
    return RulePack(
        rules=tuple(sorted(rules, key=lambda r: r.id)),
        problems=tuple(sorted([*problems, *refused], key=lambda p: (p.file, p.line, p.path, p.message))),
        content_hash=key,
        disabled=tuple(sorted(gone)),
    )


def _shown_name(path: Path, root: Path | None) -> str:
    """The path from the folder's own name on: the same in every checkout."""
    if root is not None and path.is_relative_to(root):
        return str(Path(root.name) / path.relative_to(root))
    return path.name


def read_file(path: Path, root: Path | None, *, overlay: bool) -> tuple[list[Rule], list[str], list[Problem]]:
    """The rules of one file, the ids it disables, and its problems."""
    from advisor.guide import parse
    from advisor.guide.yamlfile import YamlProblem, read

    name = _shown_name(path, root)
    try:
        doc = read(path)
    except YamlProblem as e:
        return [], [], [Problem(file=name, line=e.line, path=e.path, message=e.message)]
    return parse.rules(doc, file=name, overlay=overlay)


def _unique(rules: list[Rule]) -> tuple[list[Rule], list[Problem]]:
    """An id is used once. A rule of the user's own never replaces another silently: it must disable or override."""
    seen: dict[str, Rule] = {}
    problems = []
    for rule in sorted(rules, key=lambda r: (r.overlay, r.file, r.line)):
        first = seen.setdefault(rule.id, rule)
        if first is not rule:
            problems.append(_problem(rule, "id", f"the id {rule.id} is taken by {first.file}:{first.line}"))
    return list(seen.values()), problems


def _problem(rule: Rule, key: str, message: str) -> Problem:
    return Problem(file=rule.file, line=rule.line, path=f"{rule.id}.{key}", message=message)


def _disable(rules: list[Rule], wanted: list[tuple[str, str]]) -> tuple[list[Rule], list[str], list[Problem]]:
    from advisor.errors import did_you_mean

    known = {r.id: r for r in rules}
    gone: list[str] = []
    problems = []
    for rule_id, file in wanted:
        rule = known.get(rule_id)
        if rule is None:
            message = f"there is no rule {rule_id!r} to disable.{did_you_mean(rule_id, sorted(known))}"
            problems.append(Problem(file=file, line=1, path="disable", message=message))
        elif rule.layer == "facts":
            message = f"{rule_id} states a fact of a runtime or device; facts cannot be disabled"
            problems.append(Problem(file=file, line=1, path="disable", message=message))
        else:
            gone.append(rule_id)
    return [r for r in rules if r.id not in gone], gone, problems


def _check_overrides(rules: list[Rule]) -> tuple[list[Rule], list[Problem]]:
    """A rule that overrides a fact, something unknown, or runs in a circle loses its ``overrides``."""
    from advisor.guide.lint import override_problems

    bad = override_problems(rules)
    names = {p.path.split(".")[0] for p in bad}
    kept = [msgspec.structs.replace(r, overrides=()) if r.id in names else r for r in rules]
    return kept, bad


def lint(paths: list[Path] | tuple[Path, ...] | None = None, *, overlay: Path | None = None) -> tuple[Problem, ...]:
    """Check rule files (files or folders; default: the bundled rules and ``overlay``) as strictly as can be.

    Beyond what loading reports: two ``set`` of one key that can both fire, examples that come out wrong.
    """
    from advisor.guide.lint import check

    if paths is None:
        pack = load_pack(overlay=overlay)
        return (*pack.problems, *check(pack.rules))
    rules: list[Rule] = []
    problems: list[Problem] = []
    disabled: list[tuple[str, str]] = []
    for given in paths:
        root = given if given.is_dir() else given.parent
        for path in datafiles.data_files(given) if given.is_dir() else [given]:
            found, off, wrong = read_file(path, root, overlay=_is_overlay(path))
            rules += found
            disabled += [(i, _shown_name(path, root)) for i in off]
            problems += wrong
    rules, clashes = _unique(rules)
    rules, refused = _check_overrides(rules)
    found_problems = [*problems, *clashes, *refused, *check(tuple(rules))]
    return tuple(sorted(set(found_problems), key=lambda p: (p.file, p.line, p.path, p.message)))


def _is_overlay(path: Path) -> bool:
    """Files outside the bundled folder are somebody's own."""
    try:
        return not path.resolve().is_relative_to(datafiles.rules_dir().resolve())
    except OSError:
        return True
