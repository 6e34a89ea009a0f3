"""What the laws of devices rest on, and how mixtures of experts differ."""

from __future__ import annotations

import pytest

from advisor.cost import devices
from advisor.cost.devices import kernel, law
from advisor.facts.machine import Device
from advisor.probes import catalog
from advisor.probes.named import device_of


def card(profile: str) -> Device:
    """The device of a bundled profile."""
    return device_of(catalog.find(profile), "gpu0")


def test_figures_are_sourced_and_sane() -> None:
    table = devices.speeds()
    for one in (*table.decode.measured.values(), *table.prefill.measured.values()):
        assert one.source
        assert 0 < one.devices <= one.rows
    for span in (*table.decode.ranges.values(), *table.prefill.ranges.values()):
        assert span.low < 1 < span.high
    for engine in table.cpu.engines.values():
        assert engine.source
        assert engine.fixed_ms > 0
        assert engine.decode
        assert all(v > 0 for v in (*engine.decode.values(), *engine.prefill.values()))
    assert {"llama.cpp", "vllm", "transformers"} <= set(table.cpu.engines)


def test_more_experts_layers_cost_in_proportion() -> None:
    few, many = (law(card("rtx-4090"), runtime="llama.cpp", family="k", moe=True, layers=n).fixed for n in (16, 64))
    assert many == pytest.approx(4 * few)


def test_a_few_measured_mixtures_say_little_of_others() -> None:
    few, many = card("rtx-4090"), card("gb10")
    dense = law(few, runtime="llama.cpp", family=kernel("q4_k_m", "gguf"), moe=False, layers=32)
    mixed = law(few, runtime="llama.cpp", family=kernel("q4_k_m", "gguf"), moe=True, layers=32)
    known = law(many, runtime="llama.cpp", family=kernel("q4_k_m", "gguf"), moe=True, layers=32)
    assert (dense.method, mixed.method, known.method) == ("fit", "guess", "fit")
    assert mixed.high / mixed.low > 2 > known.high / known.low
