"""Goals, one-choice estimates, explanations and commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from advisor import datafiles
from advisor.errors import AdvisorError
from advisor.facts import shown
from advisor.facts.plan import Decision, Rejected, Settings
from advisor.facts.quantity import exact
from advisor.facts.words import GOALS as GOAL_NAMES
from advisor.planner import goals
from advisor.planner.estimate import estimate
from advisor.planner.explain import against, explain_plan, explain_rule, rejected_texts
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import GOALS, PACK, plan

GOAL = """schema: advisor/goal/v1
id: chat
description: mine
context: 1024
parallel: 1
min_decode_tps: null
weights: {quality: 1.0, speed: 0, memory: 0, time: 0, disk: 0}
because: it is mine
sources: [{title: me}]
"""


def test_the_ten_goals() -> None:
    assert set(GOALS) == set(GOAL_NAMES)
    for goal in GOALS.values():
        assert abs(sum(goal.weights.values()) - 1) < 1e-9
        assert goal.sources and goal.because and goal.description


def test_a_users_goal_goes_over_the_bundled_one(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "chat.yaml").write_text(GOAL)
    assert goals.get("chat", overlay=tmp_path / "o").context == 1024
    cached = goals.load(tmp_path / "o", cache_dir=tmp_path / "c")
    assert goals.load(tmp_path / "o", cache_dir=tmp_path / "c") == cached
    (kept,) = (tmp_path / "c").iterdir()
    kept.write_text("damaged")
    assert goals.load(tmp_path / "o", cache_dir=tmp_path / "c") == cached


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("goal/v1", "goal/v2", "chat.yaml:1: schema"),
        ("speed: 0", "sped: 0", "weights.sped: there is no term 'sped'. Did you mean \"speed\""),
        ("quality: 1.0", "quality: 0.5", "sum to 1, not to 0.5"),
        ("context: 1024", "context: 0", "chat.yaml:4: context"),
        ("context: 1024", "context: 8k", "context"),
        ("because:", "becuase:", 'Did you mean "because"'),
        ("[{title: me}]", "[]", "sources"),
        ("because:", "reasons: {contxt: so}\nbecause:", 'Did you mean "context"'),
        ("id: chat", "id: chat\nid: chat", "written twice"),
    ],
)
def test_a_bad_goal_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    (tmp_path / "chat.yaml").write_text(GOAL.replace(old, new))
    with pytest.raises(AdvisorError) as e:
        goals.load(tmp_path)
    assert e.value.code == "bad-profile" and said in e.value.message


def test_an_unknown_goal() -> None:
    with pytest.raises(AdvisorError, match='Did you mean "serving"') as e:
        goals.get("servin")
    assert (e.value.code, e.value.exit_code) == ("goal-not-found", 4)


def one(size: float = 8.0, machine: object = None, **changes: object) -> object:
    m = fakes.model(size)
    values: dict[str, object] = {
        "method": "gguf",
        "fmt": "q4_k_m",
        "runtime": "llama.cpp",
        "settings": Settings(context=8192, gpu_layers=-1),
    }
    values |= changes  # type: ignore[arg-type]
    return estimate(
        m, fakes.tensors(m), machine or fakes.cpu_only(), cost_fn=fakes.fake_cost, layers_fn=fakes.fake_layers, **values
    )  # type: ignore[arg-type]


def test_estimate_of_one_choice() -> None:
    e = one()
    assert (e.fits, e.short_by, e.settings.gpu_layers, e.settings.threads) == (True, 0, 0, 2)
    assert e.model.params == 8_000_000_000 and e.file_bytes == 4_890_000_000
    none = one(70.0)
    assert none.fits is False and none.short_by > 10**10


@pytest.mark.parametrize(
    ("size", "layers", "expected", "keys"),
    [
        (8.0, -1, 33, {"gpu0", "host"}),
        (8.0, 0, 0, {"host"}),
        (8.0, 10, 10, {"gpu0", "host"}),
        (8.0, 99, 33, {"gpu0", "host"}),
        (70.0, 99, 81, {"gpu0", "host"}),
    ],
)
def test_estimate_places_layers_as_told(size: float, layers: int, expected: int, keys: set[str]) -> None:
    e = one(size, fakes.rtx_4090(), settings=Settings(context=4096, gpu_layers=layers))
    assert e.settings.gpu_layers == expected
    assert set(e.memory.by_device) == keys


def test_estimate_splits_by_itself_and_serves_checkpoints_on_the_card() -> None:
    split = one(70.0, fakes.rtx_4090())
    assert 0 < split.settings.gpu_layers < 81 and split.fits
    awq = one(8.0, fakes.rtx_4090(), method="awq", fmt="w4a16-g128", runtime="vllm")
    assert "gpu0" in awq.memory.by_device and awq.settings.gpu_memory_utilization == 0.92
    assert one(8.0, fakes.m2_ultra()).settings.gpu_layers == 33


def test_estimate_refuses_and_reduces() -> None:
    with pytest.raises(AdvisorError, match="not a format of awq"):
        one(method="awq")
    cut = one(settings=Settings(context=10**6))
    assert cut.settings.context == 131_072 and cut.warnings[0].code == "context-reduced"


def test_explanation_of_a_plan() -> None:
    found = plan(8.0, fakes.rtx_4090())
    first = found.plans[0]
    told = explain_plan(first, others=found.plans, rejected=found.rejected, goal_weights=GOALS["chat"].weights)
    assert told.kind == "plan" and told.id == first.id
    text = "\n".join((told.text, *told.details))
    assert "GUIDE-001 speaks for it (guide+0.3)" in text and "guide 000 §7" in text
    assert all(other.id in text for other in found.plans[1:])
    assert "Not " in text and "RT-004" in text and "vllm installed" in text
    assert any(s.doc == "003" for s in told.sources)


def test_an_explanation_has_the_units_of_the_other_answers() -> None:
    first = plan(8.0, fakes.rtx_4090()).plans[0]
    hour = msgspec.structs.replace(first.time, quantize=exact(3130.0, "s", "x", "fit"))
    slow = msgspec.structs.replace(first, time=hour)
    told = explain_plan(slow)
    assert f"Memory {shown.quantity(first.memory.total)} (" in told.details[0]
    assert "time to make 52 min (fit)" in told.details[0]
    assert not re.search(r"\d GB\b|\de\+\d", "\n".join((told.text, *told.details)))
    assert f"score {first.score:.2f} (" in told.text and "of 1 for its numbers" in told.text


def test_a_rule_against_a_plan_is_told_as_such_and_each_rule_once() -> None:
    for_it, against_it, warns = (
        Decision(rule="GUIDE-060", effect="prefer", because="It is good.", target="guide+0.3"),
        Decision(rule="GUIDE-063", effect="prefer", because="It is poor.", target="guide-0.3"),
        Decision(rule="FMT-005", effect="warn", because="Rows are odd."),
    )
    first = msgspec.structs.replace(
        plan(8.0, fakes.cpu_only()).plans[0], decisions=(warns, against_it, for_it), warnings=("Rows are odd.",)
    )
    told = explain_plan(first)
    assert told.text.endswith("It is good.") and "It is poor." not in told.text
    assert told.details[1:4] == (
        "GUIDE-060 speaks for it (guide+0.3): It is good.",
        "GUIDE-063 speaks against it (guide-0.3): It is poor.",
        "FMT-005 warns: Rows are odd.",
    )
    assert "\n".join(told.details).count("Rows are odd.") == 1


def test_rejections_are_told_by_reason() -> None:
    def gone(rule: str, because: str, runtime: str = "vllm", short: int | None = None) -> Rejected:
        return Rejected(
            method="awq", format="w4a16-g128", runtime=runtime, rule=rule, because=because, short_by=short, instead=()
        )  # type: ignore[arg-type]

    dropped = (
        gone("RT-004", "No."),
        gone("FMT-012", "Old. (device.compute_capability is 8.6, 0.3 below 8.9.)"),
        gone("FMT-012", "Old. (device.compute_capability is 7.5, 1.4 below 8.9.)", "sglang"),
        gone("MEM-001", "Too big.", short=5 * 2**30),
        gone("MEM-001", "Too big.", "sglang", short=2 * 2**30),
        gone("MINE-1", "I say so."),
    )
    told = rejected_texts(dropped)
    assert [re.findall(r"[A-Z]+-\d+", text)[0] for text in told] == ["MEM-001", "MINE-1", "FMT-012", "RT-004"]
    assert told[0].endswith("(MEM-001) The closest is short by 2.00 GiB.")
    assert told[2].startswith("Not awq w4a16-g128 in vllm and sglang: Old. (device")


def test_why_one_lost_adds_up_to_the_difference_in_score() -> None:
    found = plan(8.0, fakes.cpu_only())
    one_, two = found.plans[:2]
    text = against(one_, two, GOALS["chat"].weights)
    assert text.startswith(f"Before {two.id}") and "guide's preference +0.300" in text
    weights = GOALS["chat"].weights | {"guide": 1.0}
    gap = sum((one_.terms[t] - two.terms[t]) * weights[t] for t in one_.terms)
    assert gap == pytest.approx(one_.score - two.score, abs=2e-3)


def test_explanation_of_a_rule() -> None:
    rule = PACK.get("FMT-012")
    assert rule is not None
    told = explain_rule(rule)
    assert told.kind == "rule" and "device.compute_capability is below 8.9" in told.details[0]


def test_commands_for_people() -> None:
    (first,) = plan(8.0, fakes.cpu_only(), format="iq4_xs", top=1).plans
    make = first.commands.quantize
    assert [c[0] for c in make] == ["python", "llama-imatrix", "llama-quantize"]
    assert make[2][-1] == "IQ4_XS" and "<IMATRIX.gguf>" in make[2]
    (serve,) = first.commands.serve
    assert serve[:5] == ("llama-server", "-m", "<MODEL-iq4_xs.gguf>", "-c", "8192")
    assert serve[serve.index("--host") + 1] == "127.0.0.1" and serve[serve.index("-t") + 1] == "2"
    awq = plan(8.0, fakes.rtx_4090(), "serving").plans[0]
    assert awq.commands.quantize[0][:3] == ("advisor", "quantize", "org/model-8b")
    vllm = awq.commands.serve[0]
    assert vllm[:2] == ("vllm", "serve") and vllm[vllm.index("--max-model-len") + 1] == "4096"
    assert vllm[vllm.index("--max-num-seqs") + 1] == "8" and "--quantization" not in vllm


@pytest.mark.parametrize("seed", ["1", "4242"])
def test_the_hash_seed_never_matters(seed: str) -> None:
    code = (
        "import sys; from tests.unit.planner.planner_run import plan;"
        "from tests.unit.planner import planner_fakes as f;"
        "sys.stdout.buffer.write(plan(8.0, f.rtx_4090()).dumps() + plan(70.0, f.tiny()).dumps())"
    )
    env = {"PYTHONHASHSEED": seed, "PATH": os.environ.get("PATH", ""), "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True, cwd=datafiles.root())
    assert done.stdout == plan(8.0, fakes.rtx_4090()).dumps() + plan(70.0, fakes.tiny()).dumps()
