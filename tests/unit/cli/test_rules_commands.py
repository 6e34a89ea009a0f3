"""``advisor rules``: what rules did for a model, and which never fire."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from advisor.facts.plan import Warning_
from advisor.facts.reports import RuleEffect, RuleInfo
from tests.support import sample_lists
from tests.unit.cli.conftest import Outcome

Advise = Callable[..., Outcome]
Fake = Callable[..., None]

EFFECT = RuleEffect(excluded=12, ranks=(), overridden_by=(), text="ruled out 12 ways: awq in tgi")


def test_what_rules_did_stands_beside_them(advise: Advise, fake: Fake) -> None:
    asked: dict[str, Any] = {}

    def listed(**given: Any) -> tuple[RuleInfo, ...]:
        asked.update(given)
        return (sample_lists.sample_rule(effect=EFFECT, overlay=True),)

    fake(rules_list=listed)
    done = advise("rules", "list", "--for", "8B", "--hardware", "rtx-4090", "--goal", "accuracy")
    assert (asked["model"], asked["hardware"], asked["goal"]) == ("8B", ("rtx-4090",), "accuracy")
    assert "ruled out 12 ways: awq in tgi" in done.out
    assert "yours" in done.out
    assert "1 rule spoke" in done.out
    assert "On a CPU fewer bits are faster." not in done.out
    assert "On a CPU fewer bits are faster." in advise("rules", "list", "--for", "8B", "--verbose").out
    (rule,) = json.loads(advise("rules", "list", "--for", "8B", "--json").out)["data"]["rules"]
    assert rule["effect"]["excluded"] == 12


def test_own_files_are_named(advise: Advise, fake: Fake) -> None:
    taking = Warning_(code="own-rules", message="mine.yaml takes part: it adds USR-001.")
    fake(own_rules=lambda **_: (taking,))
    assert "mine.yaml takes part" in advise("rules", "list").err
    for words in (("rules", "list"), ("compare", "8B")):
        assert json.loads(advise(*words, "--json").out)["warnings"] == [taking.to_json()]


def test_rules_that_never_fire_are_exit_3(advise: Advise, fake: Fake) -> None:
    assert advise("rules", "coverage").code == 0
    fake(rules_coverage=lambda **_: sample_lists.sample_coverage(never=("FMT-004",)))
    done = advise("rules", "coverage")
    assert done.code == 3
    assert "1 of 2 rules fire in one of 1 situations." in done.out
    assert "Never: FMT-004" in done.out
    assert "chat-on-a-laptop" not in done.out
    assert "chat-on-a-laptop" in advise("rules", "coverage", "--verbose").out
    assert advise("rules", "coverage", "--quiet").out.split() == ["FMT-004"]


def test_a_rule_in_full(advise: Advise, fake: Fake) -> None:
    fake(
        rules_show=lambda rule_id, **_: sample_lists.sample_rule(
            does="Rules a candidate out", when="candidate.method is awq", instead=("gguf", "nf4")
        )
    )
    done = advise("rules", "show", "GUIDE-060")
    for said in ("Rules a candidate out", "candidate.method is awq", "gguf; nf4"):
        assert said in done.out
