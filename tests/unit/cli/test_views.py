"""What a person reads: origins beside numbers, reasons, and nothing foreign that drives a terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest

from advisor.cli.page import Cell, Column, Page
from advisor.cli.views import (
    deployments,
    environments,
    estimate,
    explanation,
    machine,
    plans,
    reasons,
    receipt,
    rejections,
    up,
    verification,
)
from advisor.facts.plan import Decision
from advisor.facts.reports import Explanation, ExplanationPart
from advisor.facts.results import StepRecord
from tests.support import sample_lists, samples


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def on_page(write: Callable[[Page], None], columns: int = 120) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        page = Page(io.StringIO())
        write(page)
        return page.finish()

    return on_page


def test_numbers_carry_their_origin(draw: Callable[..., str]) -> None:
    text = draw(lambda page: plans.recommendation(page, samples.sample_recommendation()))
    for told in ("5.00 GiB", "formula", "42.5 tok/s", "fit", "0.071", "table"):
        assert told in text
    text = draw(lambda page: estimate.estimate(page, samples.sample_estimate(), verbose=True))
    for told in ("exact", "guess", "file header", "4.50 - 6.00 GiB", "166 tensors q4_k->q5_0"):
        assert told in text


def test_reasons_cite_the_guide(draw: Callable[..., str]) -> None:
    text = draw(lambda page: plans.recommendation(page, samples.sample_recommendation()))
    assert "On a CPU fewer bits are faster. (GUIDE-060; guide 000 section 7)" in text
    assert "2  a driver" in text
    assert "llama.cpp does not load AWQ. (RT-004) The closest is short by 2.00 GiB. Instead: gguf q4_k_m." in " ".join(
        text.split()
    )
    assert "all  Many tensors are stored in larger types." in text


def test_nothing_fits_shows_what_is_near_what_would_do_and_how_to_ask_for_it(draw: Callable[..., str]) -> None:
    text = draw(lambda page: plans.recommendation(page, samples.sample_nothing_fits()))
    near = "q4_k_m in llama.cpp on gpu0 and host: it takes 26 GiB, 2.00 GiB more than may be used there (MEM-004)."
    assert near in " ".join(text.split())
    assert "it holds less" in text
    narrow = draw(lambda page: plans.recommendation(page, samples.sample_nothing_fits()), columns=60)
    for drawn in (text, narrow):
        line = next(line for line in drawn.splitlines() if "--context 32768" in line)
        assert line.endswith("advisor recommend 70B --context 32768 --hardware rtx-4090"), "it can be copied whole"


def test_each_plan_says_what_it_costs_against_the_next(draw: Callable[..., str]) -> None:
    first = samples.sample_plan(against_next="Against plan 2 (q8_0 in llama.cpp) it gains 3.00 GiB less memory.")
    text = draw(lambda page: plans.recommendation(page, samples.sample_recommendation(plans=(first,))))
    assert "Against the next best\n" in text and first.against_next in text
    assert first.against_next in draw(lambda page: plans.plan_details(page, first))


def test_an_explanation_has_its_parts_under_headings(draw: Callable[..., str]) -> None:
    parts = (ExplanationPart(title="The goal", sentences=("It is chat.", "It weighs quality.")),)
    told = Explanation(kind="plan", id="p-1", title="8B", text="It is first.", details=("It is chat.",), parts=parts)
    lines = draw(lambda page: explanation.explanation(page, told)).splitlines()
    assert lines == ["p-1: 8B", "It is first.", "", "The goal", "- It is chat.", "- It weighs quality."]


def test_up_says_which_own_rules_took_part(draw: Callable[..., str]) -> None:
    own = Decision(rule="PRJ-001", effect="prefer", because="I like it.", target="guide+0.3", overlay=True)
    plan = samples.sample_plan(decisions=(own,))
    for done in (samples.sample_up(plan=plan), samples.sample_up(plan=plan, deployment=None, receipt=None)):
        text = draw(lambda page, done=done: up.up(page, done))  # type: ignore[misc]
        assert text.rstrip().endswith("Your own rules took part: PRJ-001")
    assert "Your own rules" not in draw(lambda page: up.up(page, samples.sample_up()))


def test_rejected_is_gathered_unless_verbose(draw: Callable[..., str]) -> None:
    many = tuple(samples.sample_rejected(format=f"w{b}a16-g{g}") for b in (2, 4, 8) for g in (32, 128))
    assert len(many) == 6
    gathered = draw(lambda page: rejections.rejected(page, many))
    assert "Rejected (6 ways, 1 reason)" in gathered
    assert "awq w2a16-g32, awq w2a16-g128, awq w4a16-g32 and 3 more in llama.cpp" in gathered
    whole = draw(lambda page: rejections.rejected(page, many, verbose=True))
    assert "awq w8a16-g32 and awq w8a16-g128 in llama.cpp" in " ".join(whole.split())
    for text in (gathered, whole):
        assert " ".join(text.split()).count("llama.cpp does not load AWQ.") == 1


def test_the_first_few_reasons_are_what_a_user_can_act_on(draw: Callable[..., str]) -> None:
    rules = ("RT-903", "RT-001", "RT-002", "RT-003", "RT-004", "FMT-012", "RT-005", "MEM-001")
    many = tuple(
        samples.sample_rejected(rule=rule, because=f"{rule} says so.", short_by=2**30 if rule == "MEM-001" else None)
        for rule in rules
    )
    text = draw(lambda page: rejections.rejected(page, many))
    order = re.findall(r"(\S+) says so", text)
    assert order == ["MEM-001", "FMT-012", "RT-001", "RT-002", "RT-003"]
    assert "and 3 ways for 3 more reasons: --verbose" in text
    assert "RT-903" in draw(lambda page: rejections.rejected(page, many, verbose=True))


def weighing(rule: str, target: str) -> Decision:
    return Decision(rule=rule, effect="prefer", because=f"{rule} speaks.", target=target, sources=())


def test_each_rule_is_said_once_and_on_its_own_side(draw: Callable[..., str]) -> None:
    good, bad = weighing("GUIDE-060", "guide+0.3"), weighing("GUIDE-063", "guide-0.3")
    ranked = tuple(
        samples.sample_plan(id=f"p-00000{n}", rank=n, decisions=(bad, good) if n > 1 else (good,)) for n in (1, 2, 3, 4)
    )
    for verbose in (False, True):
        text = draw(lambda page, v=verbose: reasons.why(page, ranked, verbose=v))
        assert text.count("GUIDE-060 speaks.") == text.count("GUIDE-063 speaks.") == 1
        for_it, _, against = text.partition("What speaks against")
        assert "all  GUIDE-060 speaks." in for_it
        assert "2-4  GUIDE-063 speaks." in against


def test_the_header_says_what_the_numbers_hold_for(draw: Callable[..., str]) -> None:
    text = draw(lambda page: plans.recommendation(page, samples.sample_recommendation()))
    assert "For chat: 8,192 tokens of context, 1 slot, f16 KV cache\n" in text
    served = samples.sample_plan(settings=samples.sample_settings(context=32768, parallel=8, kv_type="q8_0"))
    text = draw(lambda page: plans.recommendation(page, samples.sample_recommendation(plans=(served,))))
    assert "For chat: 8 slots of 4,096 tokens of context each, q8_0 KV cache\n" in text
    asked = plans.Asked(context=131072)
    text = draw(lambda page: plans.recommendation(page, samples.sample_nothing_fits(), asked=asked))
    assert "For chat: 131,072 tokens of context, 1 slot, f16 KV cache\n" in text


def test_the_score_has_its_scale_and_its_parts(draw: Callable[..., str]) -> None:
    first = samples.sample_plan(terms={"quality": 0.5, "speed": 0.9, "guide": 0.3}, score=0.96)
    report = samples.sample_recommendation(plans=(first,))
    text = draw(lambda page: plans.recommendation(page, report))
    assert "score 0.96" in text
    assert "on a scale of 0 to 1 (quality 60%, speed 40%)" in text
    assert "plan 1: 0.66 + 0.30." in " ".join(text.split())
    parts = draw(lambda page: plans.recommendation(page, report, verbose=True)).split("Parts of the score")[1]
    assert parts.splitlines()[3].split() == ["1", "0.50", "0.90", "+0.30", "0.96"]


def test_the_table_says_how_cards_are_used(draw: Callable[..., str]) -> None:
    two = samples.sample_machine().devices * 2
    split = samples.sample_plan(devices=("gpu0", "gpu1"), settings=samples.sample_settings(tensor_parallel=2))
    report = samples.sample_recommendation(plans=(split,), machine=samples.sample_machine(devices=two))
    assert "tensor parallel on 2 cards" in draw(lambda page: plans.recommendation(page, report))


def test_the_receipt_puts_predicted_beside_measured(draw: Callable[..., str]) -> None:
    lines = draw(lambda page: receipt.receipt(page, samples.sample_receipt())).splitlines()
    decode = next(line for line in lines if line.startswith("decode"))
    assert decode.split() == ["decode", "40.0", "tok/s", "50.0", "tok/s", "x0.80"]
    assert next(line for line in lines if line.startswith("prefill")).split() == ["prefill", "unknown", "unknown"]
    assert any(line.split() == ["fit", "measured"] for line in lines)


def test_up_ends_with_the_address_an_answer_and_how_to_stop(draw: Callable[..., str]) -> None:
    text = draw(lambda page: up.up(page, samples.sample_up()))
    for told in ("http://127.0.0.1:8080/v1", "Paris is the capital", "Receipt", "advisor down smollm2"):
        assert told in text


def test_a_dry_run_shows_commands_unwrapped(draw: Callable[..., str]) -> None:
    argv = ("llama-server", "-m", "a file.gguf", *(f"--option-{i}" for i in range(30)))
    plan = samples.sample_plan(commands=samples.sample_plan().commands.__class__(serve=(argv,)))
    done = samples.sample_up(deployment=None, receipt=None, plan=plan)
    text = draw(lambda page: up.up(page, done), columns=60)
    line = next(line for line in text.splitlines() if line.startswith("llama-server"))
    assert "'a file.gguf'" in line
    assert line.endswith("--option-29")
    assert "Nothing was changed." in text


def test_the_machine_tells_limits_and_what_is_unknown(draw: Callable[..., str]) -> None:
    text = draw(lambda page: machine.machine(page, samples.sample_machine()))
    for told in ("24.0 GiB (limited to 16.0 GiB)", "1.5 granted", "NVIDIA GeForce RTX 4090", "unknown", "1008 GB/s"):
        assert told in text
    assert "No accelerator" in draw(lambda page: machine.machine(page, samples.sample_machine(devices=())))


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("warn", 0), ("fail", 3)])
def test_the_gate(verdict: str, code: int, draw: Callable[..., str]) -> None:
    found = samples.sample_verification(verdict)
    assert verification.exit_code(found) == code
    assert verdict in draw(lambda page: verification.verification(page, found))


EVIL = "a\x1b]0;t\x07\x1b[2J\u202eb [bold]c[/bold] :smile:\nd"


def test_foreign_text_is_only_text(draw: Callable[..., str]) -> None:
    def write(page: Page) -> None:
        page.title(EVIL)
        page.text(EVIL)
        page.lines(EVIL)
        page.bullets([EVIL])
        page.numbered([("1.", EVIL)])
        page.fields([("x", Cell(EVIL, "", EVIL))])
        page.table([Column("x")], [[Cell(EVIL, "", EVIL)]])
        page.verbatim(EVIL)

    for columns in (12, 30, 100):
        text = draw(write, columns)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[bold]c[/bold] :smile:" in text


def test_narrow_tables_become_records(draw: Callable[..., str]) -> None:
    text = draw(lambda page: page.table([Column("name"), Column("size", True)], [["one", "2 GiB"], ["two", ""]]), 20)
    assert text == "name: one\nsize: 2 GiB\n\nname: two\n"


def test_a_table_whose_words_do_not_fit_becomes_records(draw: Callable[..., str]) -> None:
    row = ["a" * 40, "b" * 40, "c"]
    text = draw(lambda page: page.table([Column("x"), Column("y"), Column("z")], [row]), 70)
    assert text == f"x: {row[0]}\ny: {row[1]}\nz: c\n"


@pytest.mark.parametrize("columns", [20, 60, 80, 120])
def test_addresses_paths_and_ids_are_never_cut(draw: Callable[..., str], columns: int) -> None:
    url, path = "http://127.0.0.1:8080/v1", "/home/someone/" + "deep/" * 30 + "model-q4_k_m.gguf"
    one = samples.sample_deployment(name="a-deployment-with-a-long-name", openai_base_url=url, artifact=path, log=path)
    env = sample_lists.sample_env(path=path)

    def write(page: Page) -> None:
        deployments.deployments(page, (one,))
        deployments.deployment(page, one)
        environments.environments(page, (env,))
        page.text(f"It is in {path} now.")
        page.bullets([f"It is in {path} now."])

    text = draw(write, columns)
    assert text.count(url) == 2
    assert text.count(path) == 5
    assert text.count(one.name) == 2


def test_environments_show_variant_state_and_what_can_be_built(draw: Callable[..., str]) -> None:
    old = sample_lists.sample_env(name="vllm", variant="cuda", complete=False, built=True, current=False)
    half = sample_lists.sample_env(name="autoawq", complete=False, built=False)
    text = draw(
        lambda page: environments.listing(
            page, (sample_lists.sample_env(), old, half), (), sample_lists.sample_offers()
        )
    )
    rows = {tuple(line.split()[:3]) for line in text.splitlines() if line.strip()}
    assert {("llama.cpp", "complete", "1.00"), ("vllm", "cuda", "outdated"), ("autoawq", "incomplete", "1.00")} <= rows
    assert {("vllm", "cpu", "no"), ("llama.cpp", "yes", "1.00")} <= rows
    assert "Serves AWQ." in text
    assert "NVIDIA T4: the driver 535 is too old" in text
    assert "PyTorch's own index" not in text
    told = draw(lambda page: environments.listing(page, (), (), sample_lists.sample_offers(), verbose=True))
    assert "vllm needs PyTorch's own index" in told
    assert "variants cpu, cuda, rocm" in told


def test_logs_are_not_wrapped(draw: Callable[..., str]) -> None:
    line = "a line of a log " * 20
    assert draw(lambda page: page.lines(line), 60) == line.rstrip() + "\n"


def test_a_reused_receipt_says_when_it_was_measured(draw: Callable[..., str]) -> None:
    fresh = samples.sample_receipt(measured_at="2026-01-02T03:05:00.000Z")
    assert "Receipt, measured 2026-01-02 03:05 UTC" in draw(lambda page: receipt.receipt(page, fresh))
    again = (StepRecord(name="launch", key=None, outcome="reused", seconds=0.1),)
    text = draw(lambda page: up.up(page, samples.sample_up(steps=again)))
    assert "Receipt of its launch at 2026-01-02 03:04 UTC\n" in text
    text = draw(lambda page: up.up(page, samples.sample_up(steps=again, receipt=fresh)))
    assert "Receipt of its launch at 2026-01-02 03:04 UTC, measured 2026-01-02 03:05 UTC" in text


def test_a_deployment_says_which_provider_serves_it(draw: Callable[..., str]) -> None:
    one = samples.sample_deployment(provider="wheel")
    other = samples.sample_deployment(provider=None)
    for view in (deployments.deployment, lambda page, d: deployments.deployments(page, (d,))):
        assert "wheel" in draw(lambda page, view=view: view(page, one))
        assert "wheel" not in draw(lambda page, view=view: view(page, other))
