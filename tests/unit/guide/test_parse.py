"""Rules that do not load: file, line, key path and near misses."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.guide.load import load_pack, read_file
from tests.unit.guide.rule_files import HEAD, rule, write


def problems(tmp_path: Path, *rules: str, head: str = HEAD) -> list[str]:
    path = write(tmp_path / "rules", "test.yaml", *rules, head=head)
    return [str(p) for p in read_file(path, tmp_path / "rules", overlay=False)[2]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"when": "{candidate.metod: awq}"}, 'Did you mean "candidate.method"'),
        ({"when": "{candidate.method: awk}"}, 'Did you mean "awq"'),
        ({"when": "{candidate.format: q4_k_n}"}, 'or "q4_k_m"'),
        ({"when": "{device.vendor: [nvidia, ndivia]}"}, 'Did you mean "nvidia"'),
        ({"when": "{device.memory_usable_bytes: {lt: 24GB}}"}, "24000000000 (24 GB) or 25769803776 (24 GiB)"),
        ({"when": "{device.memory_usable_bytes: {lt: 24GiB}}"}, "Write 25769803776 (24 GiB) or 24000000000 (24 GB)"),
        ({"when": "{device.memory_usable_bytes: {lt: 24}}"}, "surely meant in another unit"),
        ({"when": "{device.compute_capability: {lt: '8.9'}}"}, "is a number"),
        ({"when": "{device.compute_capability: {lessthan: 8.9}}"}, "no comparison"),
        ({"when": "{candidate.method: {lt: 3}}"}, "is no number"),
        ({"when": "{fit.fits: yes}"}, "true or false"),
        ({"when": "{fit.fits: {present: maybe}}"}, "present is true or false"),
        ({"when": "{candidate.bits: {between: [5, 3]}}"}, "is above"),
        ({"when": "{candidate.bits: {between: [5]}}"}, "[lowest, highest]"),
        ({"when": "{}"}, "ask for something"),
        ({"when": "{all: []}"}, "at least one entry"),
        ({"when": "awq"}, "map of names"),
        ({"kind": "exclud"}, 'Did you mean "exclude"'),
        ({"kind": "prefer"}, "needs score"),
        ({"kind": "prefer", "score": "guide", "weight": "3"}, "weight is a number from"),
        ({"kind": "prefer", "score": "qualty", "weight": "0.1"}, 'Did you mean "quality"'),
        ({"kind": "set", "key": "quantize.desc_akt", "value": "true"}, 'Did you mean "quantize.desc_act"'),
        ({"kind": "set", "key": "quantize.desc_act", "value": "1"}, "true or false"),
        ({"kind": "set", "key": "settings.load_mode", "value": "map"}, 'Did you mean "mmap"'),
        (
            {"kind": "set", "key": "settings.load_mode", "value": "mmap", "when": "{fit.fits: true}"},
            "settings.load_mode is set before fit.fits is known",
        ),
        ({"kind": "require"}, "needs requires"),
        ({"weight": "0.1"}, "does not belong"),
        ({"id": "awq-1"}, "an id is FAMILY-123"),
        ({"name": "Two Words"}, "words-with-hyphens"),
        ({"on_unknown": "guess"}, "no choice of on_unknown"),
        ({"because": "''"}, "because is text"),
        ({"because": None}, "'because' is missing"),
        ({"sources": "[]"}, "at least one entry"),
        ({"sources": "[{section: x}]"}, "a doc or a title"),
        ({"sources": "[{doc: '7'}]"}, "three digits"),
        ({"sources": "[{docs: '000'}]"}, 'Did you mean "doc"'),
        ({"examples": "{fires: [{candidate.method: awq}]}"}, "stays silent"),
        ({"examples": "{fires: [{candidate.methods: awq}], silent: [{candidate.method: awq}]}"}, "no fact"),
        ({"wen": "x"}, 'Did you mean "when"'),
    ],
)
def test_a_bad_rule_is_named(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    (found,) = problems(tmp_path, rule(**changes))
    assert said in found
    assert found.startswith("rules/test.yaml:")


def test_line_and_path_point_at_the_key(tmp_path: Path) -> None:
    text = rule(when="\n      all:\n        - candidate.method: awq\n        - device.compute_capability: {lt: high}")
    (found,) = problems(tmp_path, text)
    assert found.startswith("rules/test.yaml:11: rules[0].when.all[1].device.compute_capability.lt:")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (HEAD.replace("v1", "v9"), "the schema is 'advisor/rules/v1', not 'advisor/rules/v9'"),
        (HEAD.replace("guide", "gide"), 'Did you mean "guide"'),
        (HEAD.replace("family: test", "familie: test"), 'Did you mean "family"'),
        ("disable: [TST-009]\n" + HEAD, "only rules of your own may disable"),
    ],
)
def test_a_bad_header(tmp_path: Path, head: str, said: str) -> None:
    (found,) = problems(tmp_path, rule(), head=head)
    assert said in found


def test_one_bad_rule_or_file_does_not_stop_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    write(folder, "a.yaml", rule("TST-001"), rule("TST-002", when="{candidate.metod: awq}"), rule("TST-003"))
    (folder / "b.yaml").write_text("a: &x [1]\nb: *x\n")
    (folder / "c.yaml").write_text("[1, 2]\n")
    (folder / "d.yaml").write_text("")
    write(folder, "e.yaml", rule("TST-004"))
    pack = load_pack(bundled=folder)
    assert [r.id for r in pack.rules] == ["TST-001", "TST-003", "TST-004"]
    assert {p.file for p in pack.problems} == {f"rules/{n}.yaml" for n in "abcd"}
