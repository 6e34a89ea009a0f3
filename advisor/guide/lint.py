"""What loading lets pass but a reviewer should not: conflicts between rules and examples that do not hold."""

from __future__ import annotations

from collections.abc import Sequence

from advisor.errors import did_you_mean
from advisor.guide.engine import examples_failing
from advisor.guide.schema import Node, Problem, Rule


def _problem(rule: Rule, key: str, message: str) -> Problem:
    return Problem(file=rule.file, line=rule.line, path=f"{rule.id}.{key}", message=message)


def override_problems(rules: Sequence[Rule]) -> list[Problem]:
    """Overrides of unknown rules, of facts, of oneself, and cycles."""
    known = {r.id: r for r in rules}
    out = []
    for rule in rules:
        for loser in rule.overrides:
            other = known.get(loser)
            if other is None:
                hint = did_you_mean(loser, sorted(known))
                out.append(_problem(rule, "overrides", f"there is no rule {loser!r} to override.{hint}"))
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
    """Conflicting ``set`` rules and failing examples."""
    out: list[Problem] = []
    ordered = sorted(rules, key=lambda r: r.id)
    for rule in ordered:
        for side, index, said in examples_failing(rule):
            word = {True: "fires", False: "stays silent", None: "cannot be decided"}[said]
            wanted = "fire" if side == "fires" else "stay silent"
            out.append(_problem(rule, f"examples.{side}[{index}]", f"the example should {wanted}, but the rule {word}"))
    setters = [r for r in ordered if r.kind == "set"]
    for i, one in enumerate(setters):
        for two in setters[i + 1 :]:
            if one.key != two.key or one.value == two.value:
                continue
            if two.id in one.overrides or one.id in two.overrides or disjoint(one.when, two.when):
                continue
            message = (
                f"{one.id} and {two.id} both set {one.key} ({one.value!r} and {two.value!r}) and can fire together; "
                "one must override the other"
            )
            out.append(_problem(two, "key", message))
    return out


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
