"""What loading lets pass but a reviewer should not: conflicts between rules and examples that do not hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from advisor.errors import did_you_mean
from advisor.facts.text import clean
from advisor.guide.engine import examples_failing
from advisor.guide.schema import Node, Problem, Rule
from advisor.guide.texts import citation_problem


def _problem(rule: Rule, key: str, message: str) -> Problem:
    return Problem(file=rule.file, line=rule.line, path=f"{rule.id}.{key}", message=message)


def near_ids(word: str, known: Iterable[str]) -> str:
    """`` Did you mean "GUIDE-001"?`` for near misses of a rule's id."""
    return re.sub(r'"[a-z0-9]+-\d{3}"', lambda m: m[0].upper(), did_you_mean(word, sorted(known)))


def override_problems(rules: Sequence[Rule]) -> list[Problem]:
    """Overrides of unknown rules, of facts, of oneself, and cycles."""
    known = {r.id: r for r in rules}
    out = []
    for rule in rules:
        for loser in rule.overrides:
            other = known.get(loser)
            if other is None:
                hint = near_ids(loser, known)
                out.append(_problem(rule, "overrides", f"there is no rule {clean(loser, 60)!r} to override.{hint}"))
            elif other.layer == "facts":
                out.append(_problem(rule, "overrides", f"{loser} states a fact; facts cannot be overridden"))
        cycle = _cycle(rule, known)
        if cycle:
            out.append(_problem(rule, "overrides", f"overrides runs in a circle: {' -> '.join(cycle)}"))
    return out


def _cycle(start: Rule, known: dict[str, Rule]) -> list[str]:
    """The shortest way from ``start`` back to itself, or nothing."""
    ways: list[list[str]] = [[start.id]]
    seen: set[str] = set()
    while ways:
        way = ways.pop(0)
        for nxt in known[way[-1]].overrides:
            if nxt == start.id:
                return [*way, nxt]
            if nxt in known and nxt not in seen:
                seen.add(nxt)
                ways.append([*way, nxt])
    return []


def check(rules: Sequence[Rule]) -> list[Problem]:
    """Failing examples, conflicting ``set`` rules, rules that can never fire or that say the same twice, citations of
    sections that there are not; of bundled rules also thin reasons.
    """
    out: list[Problem] = []
    ordered = sorted(rules, key=lambda r: r.id)
    out += _twice(ordered)
    for rule in ordered:
        out += _citations(rule)
        if not rule.overlay:
            out += _thin(rule)
        if _impossible(rule.when):
            out.append(_problem(rule, "when", "the condition asks for two things of one fact at once; it never holds"))
        for side, index, said in examples_failing(rule):
            word = {True: "fires", False: "stays silent", None: "cannot be decided"}[said]
            wanted = "fire" if side == "fires" else "stay silent"
            out.append(_problem(rule, f"examples.{side}[{index}]", f"the example should {wanted}, but the rule {word}"))
    setters = [r for r in ordered if r.kind == "set"]
    for i, one in enumerate(setters):
        for two in setters[i + 1 :]:
            if one.key != two.key or one.value == two.value or one.overlay is not two.overlay:
                continue  # between layers the user's own rule wins
            if two.id in one.overrides or one.id in two.overrides or disjoint(one.when, two.when):
                continue
            message = (
                f"{one.id} and {two.id} both set {one.key} ({one.value!r} and {two.value!r}) and can fire together; "
                "one must override the other"
            )
            out.append(_problem(two, "key", message))
    return out


_SHORTEST_REASON: Final = 30


def _citations(rule: Rule) -> Iterator[Problem]:
    for i, source in enumerate(rule.sources):
        wrong = citation_problem(source)
        if wrong is not None:
            yield _problem(rule, f"sources[{i}]", wrong)


def _thin(rule: Rule) -> Iterator[Problem]:
    """What a bundled rule must have beyond the shape of a rule."""
    if len(rule.because) < _SHORTEST_REASON or not rule.because.endswith((".", ".)")):
        yield _problem(rule, "because", "the reason is a whole sentence that a user can read")
    if rule.kind in ("exclude", "require") and not rule.instead:
        yield _problem(rule, "instead", "a rule that rules something out says what to take instead")
    if rule.layer == "guide" and not any(s.doc for s in rule.sources) and rule.kind == "prefer":
        yield _problem(rule, "sources", "a preference of the guide cites one of its texts")
    if rule.layer == "facts" and rule.kind == "prefer":
        yield _problem(rule, "kind", "a fact is no preference")


def _twice(rules: Sequence[Rule]) -> Iterator[Problem]:
    """Rules that say the same on the same condition: one of them would be forgotten when the other changes."""
    seen: dict[tuple[object, ...], Rule] = {}
    for rule in rules:
        says = (rule.overlay, rule.kind, rule.when, rule.requires, rule.score, rule.key, rule.value)
        first = seen.setdefault(says, rule)
        if first is not rule:
            yield _problem(rule, "when", f"{first.id} does the same on the same condition")


def _impossible(node: Node) -> bool:
    """Whether a condition demands different things of one fact."""
    demands = _demands(node)
    return any(a.fact == b.fact and _exclusive(a, b) for i, a in enumerate(demands) for b in demands[i + 1 :])


def registered(path: Path) -> dict[str, str]:
    """Every id that was ever given out, with its rule's name; behind that of a rule that is no more: ``retired``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return dict(line.split(" ", 1) for line in lines if " " in line and not line.startswith("#"))


def unregistered(rules: Sequence[Rule], path: Path) -> Iterator[Problem]:
    """An id is never given to another rule: the register keeps it with the name of its rule.

    Args:
        rules: all bundled rules, among others.
    """
    known = registered(path)
    for rule in rules:
        if rule.overlay:
            continue
        name = known.get(rule.id)
        if name is None:
            yield _problem(rule, "id", f"{rule.id} is not in {path.name}; add the line {rule.id} {rule.name}")
        elif name != rule.name:
            yield _problem(rule, "id", f"{rule.id} belongs to {name!r} ({path.name}); an id is never used again")
    there = {r.id for r in rules}
    for rule_id, name in sorted(known.items()):
        if rule_id not in there and not name.endswith(" retired"):
            message = f"{rule_id} ({name}) is gone; write retired behind it, so that the id is never used again"
            yield Problem(file=path.name, line=1, path=rule_id, message=message)


def _demands(node: Node) -> list[Node]:
    """Comparisons that must all hold for the condition to hold."""
    if node.op == "all":
        return [d for n in node.of for d in _demands(n)]
    return [node] if node.fact else []


def disjoint(one: Node, two: Node) -> bool:
    """Whether two conditions surely never hold together: they demand different things of one fact."""
    return any(a.fact == b.fact and _exclusive(a, b) for a in _demands(one) for b in _demands(two))


def _choices(node: Node) -> set[object] | None:
    if node.op == "eq":
        return {node.value}
    if node.op == "in" and isinstance(node.value, tuple):
        return set(node.value)
    return None


def _exclusive(a: Node, b: Node) -> bool:
    from advisor.facts.catalogue import FACTS

    if a.fact in FACTS and FACTS[a.fact].type == "words":
        return False
    left, right = _choices(a), _choices(b)
    if left is not None and right is not None:
        return not left & right
    low_a, high_a = _interval(a)
    low_b, high_b = _interval(b)
    if high_a < low_b or high_b < low_a:
        return True
    touching = high_a == low_b and (a.op == "lt" or b.op == "gt")
    return touching or (high_b == low_a and (b.op == "lt" or a.op == "gt"))


def _interval(node: Node) -> tuple[float, float]:
    inf = float("inf")
    value = node.value
    if node.op == "between" and isinstance(value, tuple):
        return float(value[0]), float(value[1])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return -inf, inf
    if node.op in ("lt", "lte"):
        return -inf, float(value)
    if node.op in ("gt", "gte"):
        return float(value), inf
    return (float(value), float(value)) if node.op == "eq" else (-inf, inf)
