"""The contract that every quantizer and runtime keeps."""

from __future__ import annotations

import pytest

from advisor.backends.base import ANY_FORMAT, Quantizer, Runtime, ServeRequest
from advisor.backends.declared import DeclaredRuntime
from advisor.backends.pins import names
from advisor.backends.registry import quantizer_for, quantizers, runtime, runtimes
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings
from advisor.facts.words import GGUF_FORMATS, METHODS, RUNTIMES, is_format

DEVICES = {"cpu", "nvidia", "amd", "intel", "apple", "mixed"}


@pytest.mark.parametrize("name", sorted(runtimes()))
def test_runtime(name: str) -> None:
    r = runtime(name)
    c = r.capabilities()
    assert isinstance(r, Runtime)
    assert c.name == r.name == name
    assert name in RUNTIMES
    assert set(c.methods) <= set(METHODS)
    assert all(f == ANY_FORMAT or is_format(f) for formats in c.methods.values() for f in formats)
    assert set(c.devices) <= DEVICES
    assert set(c.needs) == set(c.devices)
    assert set(c.min_compute_capability) <= {*c.methods, *(f for fs in c.methods.values() for f in fs)}
    assert r.health_path.startswith("/")
    assert r.diagnose("nothing is wrong here\n" * 100) is None
    if c.executable:
        assert c.env in names()
        # Ollama's daemon is the user's to install; that need is dropped where one answers.
        assert any(n == () for n in c.needs.values()) or name == "ollama"
    else:
        assert all(c.needs.values()), "what this version cannot install must say what is needed"


@pytest.mark.parametrize("name", sorted(quantizers()))
def test_quantizer(name: str) -> None:
    q = quantizers()[name]
    c = q.capabilities()
    assert isinstance(q, Quantizer)
    assert c.name == q.name == name
    assert set(c.methods) <= set(METHODS)
    made = {f for formats in c.methods.values() for f in formats}
    assert all(is_format(f) for f in made)
    assert set(c.calibrates) <= made
    assert set(c.runs_on) <= DEVICES
    assert c.runs_on
    assert c.executable or c.needs
    assert c.env is None or c.env in names()
    assert q.diagnose("all is well\n") is None


def test_every_gguf_format_is_made_and_served_here() -> None:
    for fmt in GGUF_FORMATS:
        assert quantizer_for("gguf", fmt)[0].capabilities().executable
        assert runtime("llama.cpp").capabilities().loads("gguf", fmt)


def test_every_method_that_is_planned_has_a_maker() -> None:
    made = {m for q in quantizers().values() for m in q.capabilities().methods}
    assert {"awq", "gptq", "w8a8", "fp8", "nf4", "int8", "hqq", "gguf", "none"} <= made


def test_a_runtime_that_cannot_be_started_says_so() -> None:
    with pytest.raises(AdvisorError) as e:
        DeclaredRuntime(runtime("tgi").capabilities()).serve(
            ServeRequest(
                settings=Settings(context=1024), model_path="m", model_name="m", host="127.0.0.1", port=1, python="p"
            )
        )
    assert e.value.code == "not-available"
    assert e.value.exit_code == 4


def test_unknown_runtimes_are_named_with_near_misses() -> None:
    with pytest.raises(AdvisorError, match=r'"vllm"'):
        runtime("vlm")
