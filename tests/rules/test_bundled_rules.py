"""Every bundled rule: it loads, it is cited, and its own examples come out as written."""

from __future__ import annotations

import pytest

from advisor.facts.catalogue import FACTS, FactValue
from advisor.guide.conditions import facts_of
from advisor.guide.docs import rule_text
from advisor.guide.engine import evaluate, examples_failing
from advisor.guide.load import lint, load_pack
from advisor.guide.schema import Rule, RulePack

PACK = load_pack()
RULES = {r.id: r for r in PACK.rules}


def test_all_bundled_rules_load_and_lint_clean() -> None:
    assert PACK.problems == ()
    assert lint() == ()
    assert len(PACK.rules) > 140


@pytest.mark.parametrize("rule", PACK.rules, ids=lambda r: r.id)
def test_examples_of_the_rule(rule: Rule) -> None:
    assert examples_failing(rule) == []
    alone = RulePack(rules=(rule,), problems=(), content_hash="")
    for facts in rule.examples.fires:
        assert [d.rule for d in evaluate(alone, facts).decisions] == [rule.id]
    for facts in rule.examples.silent:
        assert evaluate(alone, facts).decisions == ()


@pytest.mark.parametrize("rule", PACK.rules, ids=lambda r: r.id)
def test_rule_is_documented(rule: Rule) -> None:
    assert len(rule.because) > 30 and rule.because.endswith((".", ".)"))
    for source in rule.sources:
        assert source.title or source.doc in ("000", "001", "002", "003")
        assert source.title or source.section
    if rule.kind in ("exclude", "require"):
        assert rule.instead
    text = rule_text(rule)
    assert rule.id in text and rule.because in text and "Source:" in text


def test_guide_rules_cite_the_guide_and_facts_are_never_preferences() -> None:
    for rule in PACK.rules:
        if rule.layer == "guide" and rule.id != "GUIDE-115":
            assert any(s.doc for s in rule.sources), rule.id
        if rule.layer == "facts":
            assert rule.kind in ("exclude", "require", "warn", "set"), rule.id


def test_every_fact_has_a_meaning_and_rules_use_known_ones() -> None:
    assert all(d.meaning for d in FACTS.values())
    for rule in PACK.rules:
        assert facts_of(rule.when) <= set(FACTS)


# situation -> rules that carry the guide's row
ROWS = {
    "vllm serving": ("GUIDE-001", "GUIDE-002", "GUIDE-003", "GUIDE-111", "GUIDE-045"),
    "accuracy first": ("GUIDE-004", "GUIDE-005", "GUIDE-006", "GUIDE-008"),
    "memory to spare": ("GUIDE-010", "GUIDE-011"),
    "fastest deployment": ("GUIDE-020", "GUIDE-021", "GUIDE-022"),
    "throughput": ("GUIDE-030", "GUIDE-031", "GUIDE-032", "GUIDE-034", "GUIDE-035", "GUIDE-036"),
    "gpu and ram": ("GUIDE-050", "GUIDE-051"),
    "trained for a type": ("GUIDE-116", "GUIDE-118", "GUIDE-119", "FMT-018"),
    "cpu only": ("GUIDE-060", "GUIDE-061", "GUIDE-062"),
    "apple": ("GUIDE-070", "GUIDE-071", "GUIDE-074", "RT-017"),
    "edge": ("GUIDE-040",),
    "extreme compression": ("GUIDE-080", "GUIDE-081", "GUIDE-082", "GUIDE-084", "QLT-002"),
    "precision named": ("GUIDE-046", "GUIDE-061", "GUIDE-060", "GUIDE-066", "GUIDE-081"),
    "adapter": ("GUIDE-090",),
    "calibration": ("GUIDE-100", "GUIDE-101", "GUIDE-102", "GUIDE-103", "GUIDE-104", "GUIDE-105", "GUIDE-107"),
    "time allowed": ("TIME-001", "TIME-002", "TIME-003"),
    "runtimes": ("RT-002", "RT-004", "RT-005", "RT-011", "RT-027", "RT-034"),
    "versions": ("SAFE-001", "SAFE-002", "SAFE-003", "SAFE-004"),
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_guide_is_a_rule(row: str) -> None:
    assert all(rule_id in RULES for rule_id in ROWS[row])


def test_where_texts_disagree_both_stand_and_say_which_weighs_more() -> None:
    for winner, loser in (
        ("GUIDE-004", "GUIDE-007"),
        ("GUIDE-031", "GUIDE-030"),
        ("GUIDE-080", "GUIDE-081"),
        ("GUIDE-111", "GUIDE-008"),
        ("GUIDE-001", "GUIDE-035"),
        ("GUIDE-001", "GUIDE-036"),
        ("GUIDE-001", "GUIDE-045"),
        ("GUIDE-061", "GUIDE-066"),
    ):
        assert (RULES[winner].weight or 0) > (RULES[loser].weight or 0)
        assert "text" in RULES[loser].because.lower() or loser == "GUIDE-066"


@pytest.mark.parametrize(
    ("facts", "loser", "winner", "value"),
    [
        ({"candidate.method": "awq"}, "GUIDE-107", "GUIDE-102", {"quantize.samples": 64}),
        ({"candidate.method": "gptq", "candidate.runtime": "vllm"}, "GUIDE-117", "GUIDE-115", {"quantize.sym": True}),
        ({"candidate.method": "gptq", "candidate.runtime": "exllama"}, None, None, {"quantize.sym": False}),
        ({"candidate.method": "gptq", "goal.id": "accuracy"}, None, None, {"quantize.samples": 512}),
    ],
)
def test_values_that_texts_disagree_on_are_settled(
    facts: dict[str, FactValue], loser: str | None, winner: str | None, value: dict[str, FactValue]
) -> None:
    outcome = evaluate(PACK, facts)
    assert outcome.overridden.get(loser or "") == winner
    assert value.items() <= outcome.values.items()
