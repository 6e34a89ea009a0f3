"""The engine knows no order; the loader keeps a cache and listens to the user's own rules."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor import datafiles
from advisor.facts.base import dumps_any
from advisor.guide.engine import evaluate, excluded_by, prepare
from advisor.guide.load import lint, load_pack
from advisor.guide.schema import RulePack
from tests.unit.guide.rule_files import HEAD, rule, write

BUNDLED = load_pack()
FACTS = {
    "candidate.method": "gptq",
    "candidate.runtime": "exllama",
    "candidate.placement": "gpu",
    "candidate.bits": 4.2,
    "device.vendor": "nvidia",
    "device.compute_capability": 7.0,
    "goal.id": "accuracy",
    "fit.fits": False,
}


def pack(tmp_path: Path, *rules: str) -> RulePack:
    write(tmp_path / "rules", "test.yaml", *rules)
    found = load_pack(bundled=tmp_path / "rules")
    assert found.problems == ()
    return found


def prefer(rule_id: str, weight: str, **more: str | None) -> str:
    return rule(rule_id, kind="prefer", score="guide", weight=weight, **more)


def setter(rule_id: str, value: str, **more: str | None) -> str:
    return rule(rule_id, kind="set", key="quantize.samples", value=value, **more)


def test_weights_add_up_and_are_bounded(tmp_path: Path) -> None:
    found = pack(tmp_path, *(prefer(f"TST-00{i}", "0.4") for i in range(4)))
    assert evaluate(found, {"candidate.method": "awq"}).scores == {"guide": 1.0}
    assert evaluate(found, {"candidate.method": "gguf"}).scores == {}


def test_require_says_by_how_much(tmp_path: Path) -> None:
    text = rule(
        kind="require",
        requires="{device.compute_capability: {gte: 8.9}}",
        examples="{fires: [{candidate.method: awq, device.compute_capability: 8}], silent: [{candidate.method: hqq}]}",
    )
    found = pack(tmp_path, text)
    (d,) = evaluate(found, {"candidate.method": "awq", "device.compute_capability": 7.5}).excluded
    assert d.measured == ("device.compute_capability is 7.5, 1.4 below 8.9",)
    assert not evaluate(found, {"candidate.method": "awq", "device.compute_capability": 9.0}).excluded


@pytest.mark.parametrize(
    ("choice", "excluded", "warned", "assumed"),
    [("warn", 0, 1, 1), ("assume-true", 1, 0, 1), ("assume-false", 0, 0, 1), ("skip", 0, 0, 0)],
)
def test_unknown_facts(tmp_path: Path, choice: str, excluded: int, warned: int, assumed: int) -> None:
    outcome = evaluate(pack(tmp_path, rule(on_unknown=choice)), {})
    assert (len(outcome.excluded), len(outcome.warnings), len(outcome.assumptions)) == (excluded, warned, assumed)
    assert outcome.unknown == (("candidate.method",) if assumed else ())


def test_overrides_settle_a_conflict(tmp_path: Path) -> None:
    found = pack(tmp_path, setter("TST-001", "128"), setter("TST-002", "512", overrides="[TST-001]"))
    outcome = evaluate(found, {"candidate.method": "awq"})
    assert outcome.values == {"quantize.samples": 512}
    assert outcome.overridden == {"TST-001": "TST-002"}
    assert lint([tmp_path / "rules" / "test.yaml"]) == () or all(
        "layer" in p.message for p in lint([tmp_path / "rules" / "test.yaml"])
    )


def own(folder: Path, *rules: str, disable: str = "[]") -> Path:
    head = f"schema: advisor/rules/v1\nfamily: mine\nlayer: user\ndisable: {disable}\nrules:\n"
    write(folder, "mine.yaml", *rules, head=head)
    return folder


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ((setter("USR-001", "128"), setter("USR-002", "512")), "both set quantize.samples"),
        ((rule("USR-001", overrides="[USR-002]"), rule("USR-002", overrides="[USR-001]")), "runs in a circle"),
        ((rule("USR-001", overrides="[USR-001]"),), "runs in a circle"),
        ((rule("USR-001", overrides="[USR-999]"),), "no rule 'USR-999' to override"),
        ((rule("USR-001"), rule("USR-001")), "is taken by"),
        ((rule("USR-001", examples="{fires: [{candidate.method: gguf}], silent: [{candidate.method: hqq}]}"),),
         "the example should fire, but the rule stays silent"),
    ],
)  # fmt: skip
def test_lint_finds(tmp_path: Path, rules: tuple[str, ...], said: str) -> None:
    found = lint([own(tmp_path / "mine", *rules)])
    assert any(said in p.message for p in found), found


def test_two_setters_that_never_meet_are_fine(tmp_path: Path) -> None:
    where = {"when": "{candidate.method: gptq}",
             "examples": "{fires: [{candidate.method: gptq}], silent: [{candidate.method: awq}]}"}  # fmt: skip
    assert lint([own(tmp_path / "mine", setter("USR-001", "128"), setter("USR-002", "512", **where))]) == ()


def test_the_users_rules_join_win_and_disable(tmp_path: Path) -> None:
    mine = own(tmp_path / "mine", setter("USR-001", "32"), disable="[GUIDE-001, RT-004, GUIDE-999]")
    found = load_pack(overlay=mine)
    assert found.disabled == ("GUIDE-001",)
    assert found.get("GUIDE-001") is None and found.get("RT-004") is not None
    assert sorted(p.message.split(" ")[0] for p in found.problems) == ["RT-004", "there"]
    outcome = evaluate(found, {"candidate.method": "awq"})
    assert outcome.values["quantize.samples"] == 32
    assert outcome.overridden == {"GUIDE-102": "USR-001", "GUIDE-107": "GUIDE-102"}
    assert [d.rule for d in outcome.decisions if d.overlay] == ["USR-001"]


def test_the_users_rules_never_win_over_facts(tmp_path: Path) -> None:
    found = load_pack(overlay=own(tmp_path / "mine", rule("USR-001", overrides="[RT-004]")))
    assert any("facts cannot be overridden" in p.message for p in found.problems)
    facts = {"candidate.method": "awq", "candidate.runtime": "llama.cpp"}
    assert {"RT-004", "USR-001"} == {d.rule for d in evaluate(found, facts).excluded}


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rules_never_matters(rng: random.Random) -> None:
    shuffled = list(BUNDLED.rules)
    rng.shuffle(shuffled)
    other = msgspec.structs.replace(BUNDLED, rules=tuple(shuffled))
    assert dumps_any(evaluate(other, FACTS)) == dumps_any(evaluate(BUNDLED, FACTS))


def test_the_order_of_files_never_matters(tmp_path: Path) -> None:
    for i, path in enumerate(reversed(datafiles.data_files(datafiles.rules_dir()))):
        shutil.copy(path, tmp_path / f"{i:02d}.yaml")
    renamed = load_pack(bundled=tmp_path)
    assert dumps_any(evaluate(renamed, FACTS)) == dumps_any(evaluate(BUNDLED, FACTS))


@pytest.mark.parametrize("seed", ["0", "77"])
def test_the_hash_seed_never_matters(seed: str) -> None:
    code = (
        "import sys, json; from advisor.guide.load import load_pack; from advisor.guide.engine import evaluate;"
        "from advisor.facts.base import dumps_any;"
        f"sys.stdout.write(dumps_any(evaluate(load_pack(), {FACTS!r})).decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        cwd=datafiles.root(),
    )  # fmt: skip
    assert done.stdout.encode() == dumps_any(evaluate(BUNDLED, FACTS))


@given(st.dictionaries(st.sampled_from(sorted(FACTS)), st.none(), max_size=4))
def test_settled_rules_exclude_the_same(gone: dict[str, None]) -> None:
    facts = {**FACTS, **gone}
    fixed = {"goal.id": facts["goal.id"], "machine.has_gpu": True}
    whole = prepare(BUNDLED).all
    settled = prepare(BUNDLED, fixed).all
    one, two = excluded_by(whole, {**facts, **fixed}), excluded_by(settled, {**facts, **fixed})
    assert (one.rule.id if one else None) == (two.rule.id if two else None)


def test_cache_is_used_checked_and_rebuilt(tmp_path: Path) -> None:
    first = load_pack(cache_dir=tmp_path)
    (kept,) = tmp_path.iterdir()
    assert load_pack(cache_dir=tmp_path) == first == BUNDLED
    for damage in (b"", b"{", b'{"rules": []}', kept.read_bytes().replace(first.content_hash.encode(), b"0" * 64)):
        kept.write_bytes(damage)
        assert load_pack(cache_dir=tmp_path) == first
    assert kept.read_bytes() == msgspec.json.encode(first)
    assert [p.name for p in tmp_path.iterdir()] == [kept.name]


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert load_pack(cache_dir=blocked).rules == BUNDLED.rules


def test_a_changed_rule_changes_the_hash(tmp_path: Path) -> None:
    write(tmp_path / "a", "test.yaml", rule())
    before = load_pack(bundled=tmp_path / "a", cache_dir=tmp_path / "c")
    write(tmp_path / "a", "test.yaml", rule(because="Another reason, long enough to read."))
    after = load_pack(bundled=tmp_path / "a", cache_dir=tmp_path / "c")
    assert before.content_hash != after.content_hash
    assert after.rules[0].because.startswith("Another")


def test_a_warm_load_reads_no_yaml(tmp_path: Path) -> None:
    load_pack(cache_dir=tmp_path)
    code = (
        "import sys; from pathlib import Path; from advisor.guide.load import load_pack;"
        f"load_pack(cache_dir=Path({str(tmp_path)!r}));"
        "sys.exit(' '.join(m for m in ('yaml', 'advisor.guide.parse') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=datafiles.root())
    assert (done.returncode, done.stderr) == (0, "")


def test_head_of_bundled_files_is_the_current_schema() -> None:
    assert HEAD.splitlines()[0] == "schema: advisor/rules/v1"
    assert all(
        p.read_text().startswith("schema: advisor/rules/v1\n") for p in datafiles.data_files(datafiles.rules_dir())
    )
