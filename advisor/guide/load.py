"""Loads the rule files, bundled and the user's own; keeps the checked pack in a cache so that YAML is read once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from advisor import datafiles
from advisor._version import __version__
from advisor.facts.text import clean
from advisor.guide.schema import Problem, Rule, RulePack

_CACHE_FORMAT: Final = 2

# Beside the rule files: every id that was ever given out, with its rule's name.
REGISTER: Final = "register.txt"
# (rule, file, line) of an entry under ``disable``.
Disabled = tuple[str, str, int]


def load_pack(
    *,
    overlay: Path | None = None,
    project: Path | None = None,
    cache_dir: Path | None = None,
    bundled: Path | None = None,
) -> RulePack:
    """Load every rule. A file or rule that is wrong is left out and reported in ``problems``; the others load.

    Args:
        overlay: the user's own rule folder; its rules win over the guide and may disable its rules, never the facts.
        project: a rule file of the project in hand, which does the same; an id that both use is the project's.
        cache_dir: where the checked pack is kept under its content hash; ``None``: nowhere.
        bundled: another folder than the bundled rules.
    """
    base = bundled if bundled is not None else datafiles.rules_dir()
    files = datafiles.data_files(base)
    own = own_files(overlay, project)
    key = _hash(files, own)
    cached = _read_cache(cache_dir, key)
    if cached is not None:
        return cached
    pack = _load(files, own, base, key)
    _write_cache(cache_dir, pack)
    return pack


def own_files(overlay: Path | None, project: Path | None) -> list[Path]:
    """The user's own rule files, those that stand first before the others."""
    return [*([project] if project is not None else []), *(datafiles.data_files(overlay) if overlay else [])]


def _hash(files: list[Path], own: list[Path]) -> str:
    import hashlib

    h = hashlib.sha256(f"{_CACHE_FORMAT}\0{__version__}\0".encode())
    for group in (files, own):
        h.update(_safe_hash(group).encode())
    h.update(repr([str(path) for path in own]).encode())  # own files are named in answers by their whole path
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


def _load(files: list[Path], own: list[Path], base: Path, key: str) -> RulePack:
    from advisor.guide.overlays import gathered

    rules: list[Rule] = []
    problems: list[Problem] = []
    disabled: list[Disabled] = []
    for path, root in [(p, base) for p in files] + [(p, None) for p in own]:
        found, off, wrong = read_file(path, root, overlay=root is None)
        rules += found
        disabled += off
        problems += wrong
    rules, clashes = _unique(rules, [str(p) for p in own])
    problems += clashes
    rules, gone, refused = _disable(rules, disabled)
    problems += refused
    rules, refused = _check_overrides(rules)
    return RulePack(
        rules=tuple(sorted(rules, key=lambda r: r.id)),
        problems=tuple(sorted([*problems, *refused], key=lambda p: (p.file, p.line, p.path, p.message))),
        content_hash=key,
        disabled=tuple(sorted({rule for rule, _ in gone})),
        overlays=gathered([str(p) for p in own], rules, gone),
    )


def _shown_name(path: Path, root: Path | None) -> str:
    """The path from the folder's own name on: the same in every checkout. Without a folder the whole path."""
    if root is None:
        return clean(str(path), 400)
    return str(Path(root.name) / path.relative_to(root)) if path.is_relative_to(root) else path.name


def read_file(path: Path, root: Path | None, *, overlay: bool) -> tuple[list[Rule], list[Disabled], list[Problem]]:
    """The rules of one file, the ids it disables, and its problems. ``root``: as ``_shown_name``."""
    from advisor.guide import parse
    from advisor.guide.yamlfile import YamlProblem, read

    name = _shown_name(path, root)
    try:
        doc = read(path)
    except YamlProblem as e:
        return [], [], [Problem(file=name, line=e.line, path=e.path, message=e.message)]
    found, off, wrong = parse.rules(doc, file=name, overlay=overlay)
    single = doc.line("disable")
    lines = [doc.lines.get(f"disable[{i}]", single) for i in range(len(off))]
    return found, [(rule_id, name, line) for rule_id, line in zip(off, lines, strict=True)], wrong


def _unique(rules: list[Rule], own: list[str]) -> tuple[list[Rule], list[Problem]]:
    """An id is used once. A rule of the user's own never replaces another silently: it must disable or override.

    ``own``: the user's files, those that stand first before the others.
    """
    seen: dict[str, Rule] = {}
    problems = []
    order = {name: i for i, name in enumerate(own)}
    for rule in sorted(rules, key=lambda r: (r.overlay, order.get(r.file, 0), r.file, r.line)):
        first = seen.setdefault(rule.id, rule)
        if first is not rule:
            said = f"the id {rule.id} is taken by {first.file}:{first.line}"
            if rule.overlay and not first.overlay and first.layer != "facts":
                said += f"; take an id of your own and write overrides: [{rule.id}]"
            problems.append(_problem(rule, "id", said))
    return list(seen.values()), problems


def _problem(rule: Rule, key: str, message: str) -> Problem:
    return Problem(file=rule.file, line=rule.line, path=f"{rule.id}.{key}", message=message)


def _disable(rules: list[Rule], wanted: list[Disabled]) -> tuple[list[Rule], list[tuple[str, str]], list[Problem]]:
    """The rules that are left, (rule, file) of those that went, and what could not be disabled."""
    from advisor.guide.lint import near_ids

    known = {r.id: r for r in rules}
    gone: list[tuple[str, str]] = []
    problems = []
    for rule_id, file, line in wanted:
        rule = known.get(rule_id)
        if rule is None:
            message = f"there is no rule {clean(rule_id, 60)!r} to disable.{near_ids(rule_id, known)}"
            problems.append(Problem(file=file, line=line, path="disable", message=message))
        elif rule.layer == "facts":
            message = f"{rule_id} states a fact of a runtime or device; facts cannot be disabled"
            problems.append(Problem(file=file, line=line, path="disable", message=message))
        else:
            gone.append((rule_id, file))
    ids = {rule_id for rule_id, _ in gone}
    return [r for r in rules if r.id not in ids], gone, problems


def _check_overrides(rules: list[Rule]) -> tuple[list[Rule], list[Problem]]:
    """A rule that overrides a fact, something unknown, or runs in a circle loses its ``overrides``."""
    from advisor.guide.lint import override_problems

    bad = override_problems(rules)
    names = {p.path.split(".")[0] for p in bad}
    kept = [msgspec.structs.replace(r, overrides=()) if r.id in names else r for r in rules]
    return kept, bad


def lint(
    paths: list[Path] | tuple[Path, ...] | None = None, *, overlay: Path | None = None, project: Path | None = None
) -> tuple[Problem, ...]:
    """Check rule files (files or folders; default: the bundled rules, ``overlay`` and ``project``) strictly.

    Beyond what loading reports: see ``advisor.guide.lint.check``. Files of the user's own are held against the bundled
    rules, which they may override and disable; only what is wrong with the files named is told.
    """
    from advisor.guide.lint import check, unregistered

    base = datafiles.rules_dir()
    if paths is None:
        paths = tuple(p for p in (base, overlay, project) if p is not None)
    named = [p for given in paths for p in (datafiles.data_files(given) if given.is_dir() else [given])]
    around = [p for p in datafiles.data_files(base) if p.resolve() not in {n.resolve() for n in named}]
    rules: list[Rule] = []
    problems: list[Problem] = []
    disabled: list[Disabled] = []
    for path in [*around, *named]:
        own = _is_overlay(path)
        found, off, wrong = read_file(path, None if own else base, overlay=own)
        rules += found
        disabled += off
        problems += wrong
    rules, clashes = _unique(rules, [_shown_name(p, None) for p in named])
    problems += unregistered(rules, base / REGISTER) if not around else ()
    rules, _, refused = _disable(rules, disabled)
    problems += [*clashes, *refused]
    rules, refused = _check_overrides(rules)
    problems += [*refused, *check(tuple(rules))]
    told = {REGISTER, *(_shown_name(p, None if _is_overlay(p) else base) for p in named)}
    found_problems = {p for p in problems if p.file in told}
    return tuple(sorted(found_problems, key=lambda p: (p.file, p.line, p.path, p.message)))


def _is_overlay(path: Path) -> bool:
    """Files outside the bundled folder are somebody's own."""
    try:
        return not path.resolve().is_relative_to(datafiles.rules_dir().resolve())
    except OSError:
        return True
