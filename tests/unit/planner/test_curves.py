"""Memory against context, as it is drawn."""

from __future__ import annotations

import pytest

from advisor import api
from advisor.errors import AdvisorError
from advisor.planner.curves import Choice, beside, contexts
from tests.support.samples import sample_model

Q4 = Choice("gguf", "q4_k_m", "llama.cpp")


def test_memory_grows_with_context_and_with_bits() -> None:
    found = api.memory_by_context("8B", beside(Q4), hardware=("rtx-4090",), memory=32 * 10**9)
    assert [c.choice.format for c in found.curves] == ["q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16"]
    for curve in found.curves:
        sizes = [p.bytes for p in curve.points]
        assert sizes == sorted(sizes)
        assert [p.context for p in curve.points] == [1024 << n for n in range(8)]
    for small, large in zip(found.curves, found.curves[1:], strict=False):
        assert small.points[0].bytes < large.points[0].bytes
    assert [b.name for b in found.bounds] == ["gpu0", "gpu0 and host"]
    assert found.bounds[0].bytes < 24 * 2**30 < found.bounds[1].bytes
    assert found.asked == 8192
    assert found.machine is not None


def test_a_curve_is_what_estimate_says() -> None:
    found = api.memory_by_context("8B", (Q4,), hardware=("rtx-4090",), context=16384, kv_type="q8_0")
    one = api.estimate("8B", hardware=("rtx-4090",), context=16384, kv_type="q8_0")
    (at,) = (p for p in found.curves[0].points if p.context == 16384)
    assert at.bytes == one.memory.total.value
    assert at.fits is one.fits is True


def test_what_does_not_fit_says_so() -> None:
    found = api.memory_by_context("8B", (Q4,), hardware=("cpu",), memory=8 * 10**9)
    fits = [p.fits for p in found.curves[0].points]
    assert fits[0] is True
    assert fits[-1] is False
    assert fits == sorted(fits, reverse=True)


def test_the_one_that_was_asked_for_must_be_possible() -> None:
    with pytest.raises(AdvisorError) as caught:
        api.memory_by_context("8B", (Choice("gguf", "q4_k_m", "vllm"), Q4))
    assert caught.value.code == "contradictory-options"
    found = api.memory_by_context("8B", (Q4, Choice("gguf", "q4_k_m", "vllm")))
    assert [c.choice for c in found.curves] == [Q4]


def test_contexts_end_at_what_the_model_was_trained_for() -> None:
    model = sample_model(context_max=40960)
    assert contexts(model, None) == (1024, 2048, 4096, 8192, 16384, 32768, 40960)
    assert 5000 in contexts(model, 5000)
    assert max(contexts(model, 10**6)) == 40960


def test_beside_a_checkpoint_stand_16_bits_and_the_usual_file() -> None:
    found = beside(Choice("awq", "w4a16-g128", "vllm"))
    assert [c.format for c in found] == ["w4a16-g128", "bf16", "q4_k_m"]
