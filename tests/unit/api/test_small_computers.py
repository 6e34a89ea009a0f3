"""Small computers by name: plans that fit their memory and read it no faster than it is."""

from __future__ import annotations

import pytest

from advisor import api
from advisor.facts.reports import RecommendReport
from advisor.probes.catalog import bundled, find, names

BOARDS = tuple(n for n in names() if bundled(n).host_only)


def report(model: str, hardware: str) -> RecommendReport:
    return api.recommend(model, hardware=(hardware,), top=30)


def test_there_are_boards_of_several_makers() -> None:
    assert {"raspberry-pi-4-8gb", "raspberry-pi-5-16gb", "orange-pi-5-16gb", "n100-16gb"} <= set(BOARDS)


@pytest.mark.parametrize("board", BOARDS)
def test_plans_fit_and_are_no_faster_than_the_memory(board: str) -> None:
    profile = bundled(board)
    found = report("Qwen/Qwen2.5-1.5B-Instruct", board)
    assert found.plans
    for plan in found.plans:
        assert plan.devices == ("host",) and plan.settings.gpu_layers == 0
        assert plan.memory.total.value <= (profile.memory_bytes or 0)
        assert plan.settings.context >= 2048
        decode = plan.speed.decode
        assert decode is not None
        # every token reads all weights but the embedding, which is at most a third of so small a model
        least = plan.memory.weights.value * 2 / 3
        assert 0 < decode.low <= decode.value <= decode.high <= (profile.bandwidth_bytes_per_s or 0) / least
    assert found.plans[0].status != "elsewhere" or not found.plans[0].executable_here


# Tokens a second of the models of Ollama's library, in Q4_K_M on the processor: geerlingguy/ai-benchmarks, README
# (Pi 400: the chip of the Pi 4; N150: the cores and the memory of the N100; 14B: Qwen2.5's shape).
@pytest.mark.parametrize(
    ("board", "model", "measured"),
    [
        ("raspberry-pi-5-8gb", "meta-llama/Llama-3.2-3B-Instruct", 4.61),
        ("raspberry-pi-5-16gb", "meta-llama/Llama-3.2-3B-Instruct", 4.88),
        ("raspberry-pi-5-16gb", "meta-llama/Llama-3.2-3B-Instruct", 5.55),
        ("raspberry-pi-5-16gb", "Qwen/Qwen2.5-14B-Instruct", 1.20),
        ("raspberry-pi-4-4gb", "meta-llama/Llama-3.2-3B-Instruct", 1.60),
        ("n100-16gb", "meta-llama/Llama-3.2-3B-Instruct", 9.06),
        ("n100-16gb", "Qwen/Qwen2.5-14B-Instruct", 2.13),
    ],
)
def test_published_speeds_are_in_range(board: str, model: str, measured: float) -> None:
    decode = api.estimate(model, format="q4_k_m", context=2048, hardware=(board,)).speed.decode
    assert decode is not None
    assert decode.low <= measured <= decode.high


def test_lists_take_the_memory_that_plans_take() -> None:
    (listed,) = api.hardware(("raspberry-pi-5-8gb",), model="8B")
    (plan,) = api.recommend("8B", hardware=("raspberry-pi-5",), format="q4_k_m", runtime="llama.cpp", top=1).plans
    assert listed.runs is not None and listed.runs.fits and listed.runs.memory is not None
    assert listed.runs.memory.value == plan.memory.total.value
    assert {p.vendor for p in api.hardware(("pi",), vendor="other")} == {"other"}


def test_what_is_too_large_does_not_fit() -> None:
    found = report("Qwen/Qwen2.5-14B-Instruct", "raspberry-pi-5-2gb")
    assert found.plans == () and found.relaxations


@pytest.mark.parametrize("name", ["steam-deck", "steam-deck-oled"])
def test_a_steam_deck_computes_on_its_graphics_with_half_of_its_memory(name: str) -> None:
    found = report("8B", name)
    best = found.plans[0]
    on_device = best.memory.by_device["gpu0"]
    assert on_device.value <= (find(name).usable_bytes or 0)
    assert not [p.id for p in found.plans if p.runtime == "vllm" and "gpu0" in p.devices]
    assert best.speed.decode is not None
    assert best.speed.decode.high <= (find(name).bandwidth_bytes_per_s or 0) / best.memory.weights.value * 1.1
