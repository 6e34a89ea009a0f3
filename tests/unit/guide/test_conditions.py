"""Three-valued conditions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.guide.conditions import FALSE, TRUE, compile_, facts_of, holds, measure, missing, reduce
from advisor.guide.parse import condition
from advisor.guide.schema import Node

CC = "device.compute_capability"


@pytest.mark.parametrize(
    ("when", "facts", "expected"),
    [
        ({"candidate.method": "awq"}, {"candidate.method": "awq"}, True),
        ({"candidate.method": "awq"}, {"candidate.method": "gguf"}, False),
        ({"candidate.method": "awq"}, {}, None),
        ({"candidate.method": ["awq", "gptq"]}, {"candidate.method": "gptq"}, True),
        ({"not": {"candidate.method": "awq"}}, {}, None),
        ({"host.isa": "avx2"}, {"host.isa": ("sse", "avx2")}, True),
        ({"host.isa": ["amx_int8", "avx2"]}, {"host.isa": ("avx2",)}, True),
        ({"host.isa": "avx2"}, {"host.isa": ()}, False),
        ({CC: {"lt": 8.9}}, {CC: 8.9}, False),
        ({CC: {"lte": 8.9}}, {CC: 8.9}, True),
        ({CC: {"gt": 8.0, "lt": 9.0}}, {CC: 8.6}, True),
        ({CC: {"gte": 9}}, {CC: 9.0}, True),
        ({CC: {"between": [7.5, 8.0]}}, {CC: 7.5}, True),
        ({CC: {"between": [7.5, 8.0]}}, {CC: 8.1}, False),
        ({CC: {"lt": 8.9}}, {CC: None}, None),
        ({CC: {"present": True}}, {CC: None}, False),
        ({CC: {"present": False}}, {}, True),
        ({"fit.fits": True}, {"fit.fits": True}, True),
        ({"all": [{"fit.fits": False}, {"candidate.method": "awq"}]}, {"fit.fits": True}, False),
        ({"all": [{"fit.fits": True}, {"candidate.method": "awq"}]}, {"fit.fits": True}, None),
        ({"any": [{"fit.fits": True}, {"candidate.method": "awq"}]}, {"fit.fits": True}, True),
        ({"any": [{"fit.fits": False}, {"candidate.method": "awq"}]}, {"fit.fits": True}, None),
    ],
)
def test_truth(when: Any, facts: dict[str, Any], expected: bool | None) -> None:
    assert holds(condition(when, "when"), facts) is expected


def test_missing_and_measured() -> None:
    node = condition({"all": [{"candidate.method": "awq"}, {CC: {"lt": 8.9}}, {"candidate.bits": {"lt": 5}}]}, "when")
    assert missing(node, {"candidate.bits": 4}) == ("candidate.method", CC)
    assert missing(node, {"candidate.method": "gguf"}) == ()
    facts = {"candidate.method": "awq", CC: 7.5, "candidate.bits": 6.0}
    assert measure(node, facts, held=True) == (f"{CC} is 7.5, 1.4 below 8.9",)
    assert measure(node, facts, held=False) == ("candidate.bits is 6 bits, 1 above 5",)
    between = condition({"candidate.bits": {"between": [3.9, 5.5]}}, "when")
    assert measure(between, {"candidate.bits": 8.0}, held=False) == (
        "candidate.bits is 8 bits, 2.5 outside 3.9 .. 5.5",
    )


_METHODS = st.sampled_from(["awq", "gptq", "gguf"])
_LEAF = st.one_of(
    st.builds(lambda m: {"candidate.method": m}, _METHODS),
    st.builds(lambda f: {"fit.fits": f}, st.booleans()),
    st.builds(lambda n: {CC: {"lt": n}}, st.sampled_from([7.5, 8.0, 8.9])),
    st.builds(lambda f: {"machine.has_gpu": f}, st.booleans()),
)
_CONDITIONS = st.recursive(
    _LEAF,
    lambda inner: st.one_of(
        st.builds(lambda c: {"not": c}, inner),
        st.builds(lambda cs: {"all": cs}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda cs: {"any": cs}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=8,
)
_FACTS = st.fixed_dictionaries(
    {
        "candidate.method": st.none() | _METHODS,
        "fit.fits": st.none() | st.booleans(),
        CC: st.none() | st.sampled_from([7.0, 7.5, 8.6, 9.0]),
        "machine.has_gpu": st.none() | st.booleans(),
    }
)


@given(_CONDITIONS, _FACTS)
def test_unknown_never_becomes_a_wrong_answer(when: dict[str, Any], facts: dict[str, Any]) -> None:
    """What is decided with some facts unknown stays so whatever those facts turn out to be."""
    node = condition(when, "when")
    early = holds(node, facts)
    if early is None:
        assert missing(node, facts)
        return
    for method in ("awq", "gptq", "gguf"):
        for flag in (True, False):
            for cc in (7.0, 9.0):
                fill = {"candidate.method": method, "fit.fits": flag, CC: cc, "machine.has_gpu": flag}
                full = {k: v if v is not None else fill[k] for k, v in facts.items()}
                assert holds(node, full) is early


@given(_CONDITIONS, _FACTS)
def test_settling_fixed_facts_changes_nothing(when: dict[str, Any], facts: dict[str, Any]) -> None:
    node = condition(when, "when")
    fixed = {"machine.has_gpu": facts["machine.has_gpu"]}
    left = reduce(node, fixed, lambda fact: not fact.startswith("machine."))
    assert compile_(left)(facts) is holds(node, facts)
    if facts["machine.has_gpu"] is not None:
        assert left in (TRUE, FALSE) or "machine.has_gpu" not in facts_of(left)


@given(_CONDITIONS, _FACTS)
def test_not_is_an_involution(when: dict[str, Any], facts: dict[str, Any]) -> None:
    node = condition(when, "when")
    twice = Node(op="not", of=(Node(op="not", of=(node,)),))
    assert holds(twice, facts) is holds(node, facts)
