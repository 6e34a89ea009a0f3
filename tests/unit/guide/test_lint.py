"""What lint finds beyond what loading refuses."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from advisor.facts.plan import SourceRef
from advisor.guide.lint import check, near_ids, registered, unregistered
from advisor.guide.load import load_pack
from advisor.guide.schema import Rule
from advisor.guide.texts import CHECKS, SECTIONS, citation_problem
from tests.unit.guide.rule_files import rule, write

PACK = load_pack()


def loaded(tmp_path: Path, *texts: str) -> tuple[Rule, ...]:
    write(tmp_path / "rules", "test.yaml", *texts)
    pack = load_pack(bundled=tmp_path / "rules")
    assert pack.problems == ()
    return pack.rules


def messages(rules: tuple[Rule, ...]) -> list[str]:
    return [p.message for p in check(rules)]


@pytest.mark.parametrize(
    ("doc", "section", "said"),
    [
        ("000", "7", None),
        ("002", "27.8.3", None),
        ("003", "Scenario", None),
        ("000", "9", "has no section '9'"),
        ("002", "27.2.6", "Did you mean"),
        ("003", "Scenarios", 'Did you mean "Scenario"'),
        ("004", "7", "cite '000'"),
        ("007", "7", "no text '007'"),
        ("000", None, "without a section"),
    ],
)
def test_citations_are_of_sections_that_there_are(doc: str, section: str | None, said: str | None) -> None:
    found = citation_problem(SourceRef(doc=doc, section=section))
    assert found is None if said is None else said in (found or "")


def test_a_title_needs_no_section() -> None:
    assert citation_problem(SourceRef(title="vLLM")) is None


def test_every_check_is_of_a_section_that_there_is() -> None:
    assert all(section in SECTIONS[doc] for doc, section in CHECKS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"because": "No."}, "a whole sentence"),
        ({"because": "This reason has no full stop at its end"}, "a whole sentence"),
        ({"instead": None}, "what to take instead"),
        ({"sources": '[{doc: "000", section: "12"}]'}, "has no section '12'"),
        ({"when": "{all: [{candidate.method: awq}, {candidate.method: gptq}]}"}, "it never holds"),
        ({"when": "{all: [{candidate.bits: {lt: 4}}, {candidate.bits: {gte: 4}}]}"}, "it never holds"),
    ],
)
def test_a_rule_that_is_thin_or_dead_is_found(tmp_path: Path, changes: dict[str, str | None], said: str) -> None:
    whole: dict[str, str | None] = {"instead": '["gguf"]', "because": "A whole sentence that says enough."}
    assert messages(loaded(tmp_path / "whole", rule(**whole))) == []
    assert any(said in m for m in messages(loaded(tmp_path, rule(**(whole | changes)))))


def test_preferences_of_the_guide_cite_it(tmp_path: Path) -> None:
    text = rule(kind="prefer", score="guide", weight="0.1", sources='[{title: "somebody"}]')
    assert messages(loaded(tmp_path, text)) == ["a preference of the guide cites one of its texts"]


def test_the_same_said_twice_is_found(tmp_path: Path) -> None:
    texts = [rule(i, instead="[gguf]", because="A whole sentence that says enough.") for i in ("TST-001", "TST-002")]
    assert messages(loaded(tmp_path, *texts)) == ["TST-001 does the same on the same condition"]


def test_near_misses_of_ids_keep_their_capitals() -> None:
    assert near_ids("GUIDE-11", ["GUIDE-110", "RT-001"]) == ' Did you mean "GUIDE-110"?'
    assert near_ids("nothing like it", ["RT-001"]) == ""


def test_the_register_keeps_every_id_for_its_rule(tmp_path: Path) -> None:
    path = tmp_path / "register.txt"
    lines = [f"{r.id} {r.name}" for r in PACK.rules]
    path.write_text("# head\n" + "\n".join([*lines, "OLD-001 gone retired"]) + "\n")
    assert list(unregistered(PACK.rules, path)) == []
    assert registered(path)["OLD-001"] == "gone retired"
    (first, second), rest = PACK.rules[:2], PACK.rules[2:]
    renamed = msgspec.structs.replace(second, name="another-rule")
    new = msgspec.structs.replace(first, id="OLD-001", name="gone")
    found = [p.message for p in unregistered((new, renamed, *rest), path)]
    assert found == [
        "OLD-001 belongs to 'gone retired' (register.txt); an id is never used again",
        f"{second.id} belongs to {second.name!r} (register.txt); an id is never used again",
        f"{first.id} ({first.name}) is gone; write retired behind it, so that the id is never used again",
    ]
    fresh = msgspec.structs.replace(first, id="NEW-001")
    (message,) = (p.message for p in unregistered((*PACK.rules, fresh), path))
    assert message == f"NEW-001 is not in register.txt; add the line NEW-001 {first.name}"
    own = msgspec.structs.replace(fresh, overlay=True)
    assert list(unregistered((*PACK.rules, own), path)) == []


def test_a_lost_register_knows_no_id(tmp_path: Path) -> None:
    assert registered(tmp_path / "register.txt") == {}
    assert len(list(unregistered(PACK.rules, tmp_path / "register.txt"))) == len(PACK.rules)
