"""Three-valued conditions (Kleene's strong logic): true, false, or unknown (``None``) where a fact is not known.

``compile_`` makes a function of a condition, ``reduce`` settles what is already known before candidates differ, and
``measure`` says by how much comparisons of numbers held or failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from advisor.facts.catalogue import FACTS, FactValue
from advisor.guide.schema import Node

Facts = Mapping[str, FactValue | None]
Test = Callable[[Facts], bool | None]
_VERSION_WORDS: Final = {"lt": "below", "lte": "up to", "gt": "above", "gte": "at least", "between": "from"}


def _same(known: FactValue, wanted: object) -> bool:
    if isinstance(known, tuple):
        return wanted in known
    if isinstance(known, bool) or isinstance(wanted, bool):
        return known is wanted
    return known == wanted


def _leaf(node: Node) -> Test:
    fact, value = node.fact, node.value
    if node.op == "present":
        return lambda facts: (facts.get(fact) is not None) is value
    if node.op == "eq":
        return lambda facts: None if (known := facts.get(fact)) is None else _same(known, value)
    if node.op == "in":
        wanted = value if isinstance(value, tuple) else (value,)
        return lambda facts: None if (known := facts.get(fact)) is None else any(_same(known, w) for w in wanted)
    if _is_version(fact):
        return _version_leaf(node)
    low, high = _bounds(node)

    def compare(facts: Facts) -> bool | None:
        known = facts.get(fact)
        if known is None or isinstance(known, str | tuple):
            return None
        return low(known) and high(known)

    return compare


def _is_version(fact: str) -> bool:
    return fact in FACTS and FACTS[fact].type == "version"


def parts(version: str) -> tuple[int, ...]:
    """``0.31.0`` as (0, 31): numbers, without the zeros at the end, so that 0.31 and 0.31.0 are the same.

    Raises:
        ValueError: it is no version.
    """
    found = [int(p) for p in version.split(".")]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def _version_leaf(node: Node) -> Test:
    fact, op = node.fact, node.op
    limits = [parts(str(v)) for v in (node.value if isinstance(node.value, tuple) else (node.value,))]
    tests: dict[str, Callable[[tuple[int, ...]], bool]] = {
        "lt": lambda v: v < limits[0],
        "lte": lambda v: v <= limits[0],
        "gt": lambda v: v > limits[0],
        "gte": lambda v: v >= limits[0],
        "between": lambda v: limits[0] <= v <= limits[-1],
    }
    test = tests[op]

    def compare(facts: Facts) -> bool | None:
        known = facts.get(fact)
        if not isinstance(known, str):
            return None
        try:
            return test(parts(known))
        except ValueError:
            return None

    return compare


def _bounds(node: Node) -> tuple[Callable[[float], bool], Callable[[float], bool]]:
    def always(_: float) -> bool:
        return True

    if node.op == "between":
        assert isinstance(node.value, tuple)
        least, most = (float(v) for v in node.value)
        return (lambda x: x >= least), (lambda x: x <= most)
    assert isinstance(node.value, int | float)
    limit = node.value
    tests: dict[str, Callable[[float], bool]] = {
        "lt": lambda x: x < limit,
        "lte": lambda x: x <= limit,
        "gt": lambda x: x > limit,
        "gte": lambda x: x >= limit,
    }
    return tests[node.op], always


def compile_(node: Node) -> Test:
    """A function from facts to true, false or unknown."""
    if node.op == "not":
        inner = compile_(node.of[0])
        return lambda facts: None if (r := inner(facts)) is None else not r
    if node.op == "all":
        return _connective(tuple(compile_(n) for n in node.of), stop=False)
    if node.op == "any":
        return _connective(tuple(compile_(n) for n in node.of), stop=True)
    return _leaf(node)


def _connective(parts: tuple[Test, ...], *, stop: bool) -> Test:
    """``all`` stops at the first false, ``any`` at the first true; otherwise one unknown makes the whole unknown."""

    def run(facts: Facts) -> bool | None:
        out: bool | None = not stop
        for part in parts:
            r = part(facts)
            if r is stop:
                return stop
            if r is None:
                out = None
        return out

    return run


def holds(node: Node, facts: Facts) -> bool | None:
    """Evaluate once."""
    return compile_(node)(facts)


def leaves(node: Node) -> Iterator[Node]:
    """All comparisons of a condition."""
    if node.of:
        for n in node.of:
            yield from leaves(n)
    elif node.fact:
        yield node


def facts_of(node: Node) -> frozenset[str]:
    """The facts that a condition asks for."""
    return frozenset(leaf.fact for leaf in leaves(node))


TRUE = Node(op="all")
FALSE = Node(op="any")


def reduce(node: Node, facts: Facts, is_open: Callable[[str], bool]) -> Node:
    """Settle every comparison whose fact is not open; the rest stays. A settled condition is ``TRUE`` or ``FALSE``.

    A fact that is closed and unknown keeps its comparison, which then is unknown every time.
    """
    if node.op == "not":
        inner = reduce(node.of[0], facts, is_open)
        if inner in (TRUE, FALSE):
            return FALSE if inner == TRUE else TRUE
        return Node(op="not", of=(inner,))
    if node.op in ("all", "any"):
        stop, neutral = (FALSE, TRUE) if node.op == "all" else (TRUE, FALSE)
        left = []
        for n in node.of:
            r = reduce(n, facts, is_open)
            if r == stop:
                return stop
            if r != neutral:
                left.append(r)
        if not left:
            return neutral
        return left[0] if len(left) == 1 else Node(op=node.op, of=tuple(left))
    if is_open(node.fact):
        return node
    result = holds(node, facts)
    return node if result is None else TRUE if result else FALSE


def missing(node: Node, facts: Facts) -> tuple[str, ...]:
    """The facts for whose lack the condition is unknown, sorted."""
    if holds(node, facts) is not None:
        return ()
    return tuple(sorted({n.fact for n in leaves(node) if n.op != "present" and facts.get(n.fact) is None}))


def measure(node: Node, facts: Facts, *, held: bool) -> tuple[str, ...]:
    """One line for each comparison of numbers that held (or failed), with the difference to the limit."""
    out = []
    for leaf in leaves(node):
        known = facts.get(leaf.fact)
        if isinstance(known, str) and _is_version(leaf.fact) and leaf.op in _VERSION_WORDS:
            if holds(leaf, facts) is held:
                out.append(_version_line(leaf, known))
            continue
        if leaf.op not in ("lt", "lte", "gt", "gte", "between") or isinstance(known, bool | str | tuple | None):
            continue
        if holds(leaf, facts) is held:
            out.append(_line(leaf, known))
    return tuple(dict.fromkeys(out))


def _version_line(leaf: Node, known: str) -> str:
    if isinstance(leaf.value, tuple):
        return f"{leaf.fact} is {known}, {leaf.value[0]} .. {leaf.value[1]} is meant"
    return f"{leaf.fact} is {known}, {_VERSION_WORDS[leaf.op]} {leaf.value} is meant"


def _line(leaf: Node, known: float) -> str:
    unit = FACTS[leaf.fact].unit if leaf.fact in FACTS else None
    tail = f" {unit}" if unit else ""
    if leaf.op == "between":
        assert isinstance(leaf.value, tuple)
        low, high = (float(v) for v in leaf.value)
        gap = low - known if known < low else known - high if known > high else 0.0
        side = "inside" if gap == 0 else f"{gap:g} outside"
        return f"{leaf.fact} is {known:g}{tail}, {side} {low:g} .. {high:g}"
    assert isinstance(leaf.value, int | float)
    gap = known - leaf.value
    if gap == 0:
        return f"{leaf.fact} is exactly {known:g}{tail}"
    return f"{leaf.fact} is {known:g}{tail}, {abs(gap):g} {'above' if gap > 0 else 'below'} {leaf.value:g}"
