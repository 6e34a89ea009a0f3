"""Mixes of GGUF types between two file types, and how many candidates each stage leaves."""

from __future__ import annotations

import pytest

from advisor import api
from advisor.cost import mixes
from advisor.cost.gguf_file import weight_map
from advisor.cost.gguf_mix import assign, split
from advisor.cost.quality import quality
from advisor.errors import AdvisorError
from advisor.facts.reports import RecommendReport
from advisor.facts.words import mixed
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors

LLAMA = resolve("meta-llama/Llama-3.1-8B-Instruct")
TENSORS = tensors(LLAMA)


def report(memory: int = 8 * 10**9, hardware: tuple[str, ...] = ("cpu",), **options: object) -> RecommendReport:
    return api.recommend(LLAMA.name, hardware=hardware, memory=memory, top=200, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("base", mixes.LADDER[:-1])
def test_every_mix_lies_between_two_file_types(base: str) -> None:
    found = mixes.raised(LLAMA, TENSORS, base, imatrix=False)
    assert found
    least, most = (weight_map(LLAMA, TENSORS, f, imatrix=False).loaded for f in (base, mixes.above(base)))
    assert [m.loaded for m in found] == sorted((m.loaded for m in found), reverse=True)
    low, high = (quality(LLAMA, "gguf", f, False).kld for f in (base, mixes.above(base)))
    assert low is not None and high is not None
    for mix in found:
        assert least < mix.loaded < most
        lost = mixes.lost(LLAMA, TENSORS, mixed(base, mix.types), False).kld
        assert lost is not None and lost.method == "guess"
        assert high.value < lost.value < low.value
        assert lost.low <= high.low and lost.high >= low.high


def test_names_are_patterns_as_the_quantizer_takes_them() -> None:
    base, own = split("q4_k_m:attn_v=q6_k,ffn_down=q5_k")
    assert base == "q4_k_m" and [kind for _, kind in own] == ["q6_k", "q5_k"]
    types = {a.tensor.name: a.type for a in assign(LLAMA, TENSORS, "q4_k_m:attn_v=q6_k,ffn_down=q5_k", imatrix=False)}
    assert {types[f"blk.{i}.attn_v.weight"] for i in range(32)} == {"q6_k"}
    assert {types[f"blk.{i}.ffn_down.weight"] for i in range(32)} == {"q5_k"}
    assert types["blk.0.ffn_up.weight"] == "q4_k" and types["output.weight"] == "q6_k"
    plain = {a.tensor.name: a.type for a in assign(LLAMA, TENSORS, "q4_k_m", imatrix=False)}
    assert {n for n in types if types[n] != plain[n]} <= {n for n in types if "attn_v." in n or "ffn_down." in n}


@pytest.mark.parametrize("fmt", ["q4_k_m:ffn_down=q6_z", "q4_k_m:ffn_down", "q4_k_m:=q6_k", "q4_k_m:(=q6_k"])
def test_what_is_no_name_and_type_is_refused(fmt: str) -> None:
    with pytest.raises(AdvisorError) as e:
        split(fmt)
    assert e.value.code == "bad-option"


def test_a_mix_is_planned_where_the_next_type_is_a_little_too_large() -> None:
    found = report()
    (mix,) = [p for p in found.plans if p.tensor_types]
    plain = next(p for p in found.plans if p.format == mix.format and not p.tensor_types)
    larger = mixes.above(mix.format)
    assert larger not in {p.format for p in found.plans if p.runtime == "llama.cpp"}
    size = weight_map(LLAMA, TENSORS, mix.made_as, imatrix=False).loaded
    assert mix.memory.weights.value == size > plain.memory.weights.value
    assert mix.id != plain.id and mix.rank > plain.rank
    argv = mix.commands.quantize[-1]
    named = [argv[i + 1] for i, word in enumerate(argv) if word == "--tensor-type"]
    assert tuple(named) == mix.tensor_types and argv[-1] == mix.format.upper()
    assert argv[-2] == mix.commands.serve[0][2] == f"<MODEL-{mix.format}-mixed.gguf>"
    assert any(d.rule == "GUIDE-151" for d in mix.decisions)
    assert mix.quality.kld is not None and plain.quality.kld is not None
    assert mix.quality.kld.value < plain.quality.kld.value


def test_none_is_planned_where_all_types_fit_or_one_is_named() -> None:
    assert not any(p.tensor_types for p in report(64 * 10**9).plans)
    assert not any(p.tensor_types for p in report(format="q5_k_m").plans)


@pytest.mark.parametrize(
    ("hardware", "memory"), [(("cpu",), 16), (("rtx-4090",), 64), (("rtx-3090:8",), 64), (("rtx-3090", "arc-b580"), 64)]
)
def test_each_stage_leaves_no_more_than_it_was_given(hardware: tuple[str, ...], memory: int) -> None:
    found = report(memory * 10**9, hardware)
    assert [s.stage for s in found.stages] == ["runtime", "devices", "settings", "memory"]
    assert all(0 <= s.kept <= s.tried for s in found.stages)
    for before, after in zip(found.stages[1:], found.stages[2:], strict=False):
        assert after.tried == before.kept
    assert found.stages[-1].kept == len(found.plans)
    assert found.candidates_considered < 1000


def test_a_cache_of_eight_bits_is_planned_where_no_type_of_four_bits_fits_with_sixteen() -> None:
    wanted = {"hardware": ("rtx-3060",), "memory": 32 * 10**9, "top": 200, "method": "gguf"}
    found = api.recommend("qwen2.5:14b", context=20480, **wanted).plans  # type: ignore[arg-type]
    (small,) = [p for p in found if p.settings.kv_type != "f16"]
    assert (small.settings.kv_type, small.format, small.devices) == ("q8_0", "q4_k_m", ("gpu0",))
    assert not any(p.devices == ("gpu0",) and p.format == "q4_k_m" and p is not small for p in found)
    line = small.commands.serve[0]
    assert line[line.index("-ctk") + 1] == line[line.index("-ctv") + 1] == "q8_0"
    split = next(p for p in found if p.format == "q4_k_m" and p.devices == ("gpu0", "host"))
    assert small.memory.kv_cache.value * 64 == split.memory.kv_cache.value * 34
    assert small.quality.kld is not None and split.quality.kld is not None
    assert small.quality.kld.value > split.quality.kld.value
    asked = api.recommend("qwen2.5:14b", context=20480, kv_type="f16", **wanted).plans  # type: ignore[arg-type]
    assert {p.settings.kv_type for p in asked} == {"f16"}
    roomy = api.recommend("qwen2.5:14b", context=8192, **wanted).plans  # type: ignore[arg-type]
    assert {p.settings.kv_type for p in roomy} == {"f16"}
