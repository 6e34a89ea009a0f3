"""The lists of hardware and models, with what they are asked for."""

from __future__ import annotations

import pytest

from advisor import api
from advisor.errors import AdvisorError


def test_words_narrow_both_lists() -> None:
    laptops = api.hardware(("laptop", "40"), vendor="NVIDIA")
    assert laptops
    assert all("laptop" in p.id and "40" in p.id and p.vendor == "nvidia" for p in laptops)
    found = api.models(("qwen3", "APACHE"))
    assert found
    assert all("qwen3" in f"{m.ref} {m.architecture}".lower() for m in found)
    assert all("apache" in (m.license or "") for m in found)
    assert api.models(("no such word at all",)) == ()


def test_an_unknown_vendor_is_told_with_near_misses() -> None:
    with pytest.raises(AdvisorError, match='Did you mean "nvidia"') as caught:
        api.hardware(vendor="nvidea")
    assert caught.value.exit_code == 4


def test_hardware_for_a_model() -> None:
    found = {p.id: p.runs for p in api.hardware(("rtx-40",), model="8B")}
    large, small = found["rtx-4090"], found["rtx-4050-laptop"]
    assert large is not None
    assert small is not None
    assert large.fits is True
    assert small.fits is False
    assert large.decode is not None
    assert large.context == 8192
    assert all(runs is not None and runs.format == "q4_k_m" for runs in found.values())


def test_models_for_hardware() -> None:
    found = {m.ref: m.runs for m in api.models(("meta-llama/llama-3",), hardware="rtx-3060")}
    small = found["meta-llama/Llama-3.2-1B-Instruct"]
    large = found["meta-llama/Llama-3.3-70B-Instruct"]
    assert small is not None
    assert large is not None
    assert (small.fits, large.fits) == (True, False)
    assert small.memory.value < large.memory.value
    assert small.decode is not None
    with pytest.raises(AdvisorError) as caught:
        api.models(hardware="rtx-3061")
    assert caught.value.code == "hardware-not-found"


def test_models_say_how_long_a_context_they_were_trained_for() -> None:
    (found,) = (m for m in api.models(("llama-3.1-8b-instruct",)) if m.ref == "meta-llama/Llama-3.1-8B-Instruct")
    assert found.context_max == 131072
