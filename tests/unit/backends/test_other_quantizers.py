"""GPTQModel, AutoAWQ, optimum, bitsandbytes, hqq: what they refuse, what their logs mean, parts of their runners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.backends.quantizing import nearest_group
from advisor.backends.recipes import recipe
from advisor.backends.registry import quantizers
from advisor.cli.app import COMMANDS
from advisor.errors import AdvisorError
from advisor.facts.recipe import Recipe, RecipeOptions
from advisor.facts.words import is_format
from tests.support.safetensors_writer import write_safetensors
from tests.unit.backends.support import runner

NATIVE, QUANTIZING = runner("native"), runner("quantizing")
GPTQ, AWQ, BNB = runner("quantize_gptqmodel"), runner("quantize_autoawq"), runner("quantize_bitsandbytes")
Failed = runner("protocol").Failed
LOGS = Path(__file__).resolve().parents[2] / "fixtures" / "logs"
MINE = ("gptqmodel", "optimum", "autoawq", "bitsandbytes", "hqq")
MADE = [(name, m, f) for name in MINE for m, fs in quantizers()[name].capabilities().methods.items() for f in fs]

COMMON = {
    "out-of-memory": "the quantizer was killed by SIGKILL; if nobody killed it by hand, memory ran out\n",
    "crashed": "advisor quantize: the quantizer was killed by SIGSEGV: it made a wrong memory access\n",
    "hessian": "torch._C._LinAlgError: linalg.cholesky: The factorization could not be completed because the input is "
    "not positive-definite (the leading minor of order 12 is not positive-definite).\n",
    "not-finite": "protocol.Failed: 12 values in 2 tensors are not finite (NaN or infinite), first in model.layers.3\n",
    "no-samples": "protocol.Failed: No calibration samples: mine.jsonl has no piece of 8 tokens or more.\n",
    "group-size": "protocol.Failed: Groups of 128 do not divide the 576 columns of model.layers.0.mlp.gate_proj\n",
    "package-missing": "ModuleNotFoundError: No module named 'logbar'\n",
    "package-broken": "ImportError: cannot import name 'PytorchGELUTanh' from 'transformers.activations' (/env/lib)\n",
    "driver-too-old": "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).\n",
    "disk-full": "OSError: [Errno 28] No space left on device: 'model.safetensors'\n",
}
OWN = {
    ("gptqmodel", "width"): "ValueError: in_features must be divisible by 32\n",
    ("gptqmodel", "unknown-architecture"): "TypeError: zeta isn't supported yet.\n",
    ("optimum", "package-missing"): "ImportError: Loading a GPTQ quantized model requires gptqmodel library.\n",
    (
        "optimum",
        "unknown-architecture",
    ): "ValueError: Block pattern could not be match. Pass `block_name_to_quantize`\n",
    ("autoawq", "unknown-architecture"): "protocol.Failed: AutoAWQ does not know the architecture 'zeta'.\n",
    ("autoawq", "needs-accelerator"): "ModuleNotFoundError: No module named 'triton'\n",
    (
        "autoawq",
        "not-finite",
    ): '  File "quantizer.py", line 434, in _compute_best_scale\n    raise Exception\nException\n',
    ("bitsandbytes", "package-broken"): "ImportError: Using `bitsandbytes` 4-bit quantization requires bitsandbytes\n",
    ("bitsandbytes", "out-of-memory"): "ValueError: Some modules are dispatched on the CPU or the disk. Make sure\n",
    (
        "hqq",
        "hqq-through-transformers",
    ): "  in HqqHfQuantizer\nNotImplementedError: HQQ is not supported in this release\n",
}


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("code", sorted(COMMON))
def test_failures_that_all_share(name: str, code: str) -> None:
    found = quantizers()[name].diagnose("Loading weights: 100%\n" * 30 + COMMON[code])
    assert found is not None
    assert found.code == code
    assert found.remedy.split("advisor ")[-1].split()[0] in COMMANDS
    assert "{0}" not in found.message


@pytest.mark.parametrize(("name", "code"), sorted(OWN))
def test_failures_of_their_own(name: str, code: str) -> None:
    found = quantizers()[name].diagnose("Loading weights: 100%\n" * 30 + OWN[name, code])
    assert found is not None
    assert found.code == code


@pytest.mark.parametrize(
    ("name", "log", "code"),
    [
        ("gptqmodel", "gptqmodel-too-few-workers", "too-few-cores"),
        ("optimum", "gptqmodel-too-few-workers", "too-few-cores"),
        ("gptqmodel", "gptqmodel-healthy", None),
        ("autoawq", "autoawq-healthy", None),
        ("bitsandbytes", "bitsandbytes-healthy", None),
    ],
)
def test_recorded_logs(name: str, log: str, code: str | None) -> None:
    found = quantizers()[name].diagnose((LOGS / f"{log}.log").read_text(encoding="utf-8"))
    assert (found.code if found else None) == code


@given(st.text(alphabet="abc 0123456789%|#\n", max_size=300))
def test_noise_is_no_finding(log: str) -> None:
    assert all(quantizers()[n].diagnose(log) is None for n in MINE)


@pytest.mark.parametrize(("name", "method", "fmt"), MADE)
def test_what_is_offered_is_accepted(name: str, method: str, fmt: str) -> None:
    made = recipe(method, fmt, name, RecipeOptions())
    quantizers()[name].check(made)
    can = quantizers()[name].capabilities()
    assert can.executable
    assert can.needs == ()
    assert (fmt in can.calibrates) == (made.samples > 0)


def test_each_has_its_runner() -> None:
    from advisor.execute.proc import RUNNERS

    for name in MINE:
        script = quantizers()[name].runner
        assert script is None if name == "hqq" else (RUNNERS / str(script)).is_file()


BASE: dict[str, Recipe] = {name: recipe(method, fmt, name, RecipeOptions()) for name, method, fmt in reversed(MADE)}


@pytest.mark.parametrize(
    ("name", "change", "hint"),
    [
        ("gptqmodel", {"bits": 5}, "--bits 4 --group-size"),
        ("gptqmodel", {"bits": 16}, "--bits 8"),
        ("gptqmodel", {"group_size": 100}, "--group-size 128"),
        ("gptqmodel", {"group_size": None}, "--group-size 128"),
        ("gptqmodel", {"damp": 1.0}, "--damp 0.01"),
        ("gptqmodel", {"samples": 0}, "--samples 128"),
        ("gptqmodel", {"at_load": True}, "--method gptq"),
        ("gptqmodel", {"method": "awq"}, "--method awq"),
        ("optimum", {"bits": 6}, "--quantizer optimum"),
        ("autoawq", {"bits": 3}, "--format w4a16-g"),
        ("autoawq", {"bits": 8}, "--format w4a16-g"),
        ("autoawq", {"group_size": 16}, "--bits 4 --group-size 32"),
        ("autoawq", {"symmetric": True}, "--no-sym"),
        ("autoawq", {"layout": "marlin"}, "--quantizer autoawq"),
        ("autoawq", {"samples": 0}, "--samples 64"),
        ("autoawq", {"at_load": True}, "--quantizer autoawq"),
        ("bitsandbytes", {"bits": 6}, "--method"),
        ("bitsandbytes", {"group_size": 128}, "--method"),
        ("bitsandbytes", {"symmetric": False}, "--method"),
        ("bitsandbytes", {"samples": 16}, "--method"),
        ("hqq", {"bits": 6}, "--format hqq"),
        ("hqq", {"group_size": 48}, "--format hqq"),
        ("hqq", {"symmetric": True}, "--method hqq"),
        ("hqq", {"samples": 4}, "--method hqq"),
        ("hqq", {"at_load": False}, "advisor up MODEL --method hqq"),
    ],
)
def test_what_a_library_cannot_do_is_refused(name: str, change: dict[str, Any], hint: str) -> None:
    wrong = msgspec.structs.replace(BASE[name], **change)
    with pytest.raises(AdvisorError) as e:
        quantizers()[name].check(wrong)
    assert e.value.code == "illegal-recipe"
    assert hint in (e.value.hint or "")
    assert e.value.hint is not None
    assert e.value.hint.startswith("advisor ")
    assert e.value.data["value"] == change[next(iter(change))]


def test_at_load_is_legal_for_bitsandbytes() -> None:
    for at_load in (True, False):
        quantizers()["bitsandbytes"].check(msgspec.structs.replace(BASE["bitsandbytes"], at_load=at_load))


@given(
    name=st.sampled_from(MINE),
    bits=st.integers(1, 16),
    group=st.one_of(st.none(), st.integers(1, 512)),
    symmetric=st.booleans(),
    at_load=st.booleans(),
    samples=st.integers(0, 300),
)
def test_a_refusal_is_always_of_the_same_kind(
    name: str, bits: int, group: int | None, symmetric: bool, at_load: bool, samples: int
) -> None:
    asked = msgspec.structs.replace(
        BASE[name], bits=bits, group_size=group, symmetric=symmetric, at_load=at_load, samples=samples
    )
    try:
        quantizers()[name].check(asked)
    except AdvisorError as e:
        assert e.code == "illegal-recipe"
        words = (e.hint or "").split()
        assert all(is_format(words[i + 1]) for i, w in enumerate(words) if w == "--format")
        return
    assert bits in {"gptqmodel": (2, 3, 4, 8), "optimum": (2, 3, 4, 8), "hqq": (2, 3, 4, 8)}.get(name, (4, 8))


@given(st.one_of(st.none(), st.integers(1, 4096)))
def test_the_nearest_group_is_nearest(group: int | None) -> None:
    found = nearest_group(group)
    assert all(abs(found - (group or 128)) <= abs(g - (group or 128)) for g in (32, 64, 128))


# ---- the runners' parts


HEADERS = {
    "model.embed_tokens.weight": ("BF16", [512, 96]),
    "model.layers.0.input_layernorm.weight": ("BF16", [96]),
    "model.layers.0.self_attn.q_proj.weight": ("BF16", [96, 96]),
    "model.layers.1.mlp.down_proj.weight": ("BF16", [96, 160]),
    "model.norm.weight": ("BF16", [96]),
}


def test_the_matrices_of_layers_are_found() -> None:
    assert NATIVE.matrices(HEADERS) == {
        "model.layers.0.self_attn.q_proj": (96, 96),
        "model.layers.1.mlp.down_proj": (96, 160),
    }
    assert NATIVE.layer_count(HEADERS) == 2
    assert NATIVE.dtype_of(HEADERS) == "bfloat16"
    assert NATIVE.kept(HEADERS) == ["lm_head", "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize("group", [64, 128])
def test_a_group_that_no_kernel_could_read_is_refused_before_anything_is_loaded(group: int) -> None:
    with pytest.raises(Failed) as e:
        NATIVE.check_widths(HEADERS, {"bits": 4, "group_size": group}, 32)
    assert e.value.code == "illegal-recipe"
    assert str(group) in e.value.message
    NATIVE.check_widths(HEADERS, {"bits": 4, "group_size": 32}, 32)


def test_rows_that_do_not_fill_words_are_refused() -> None:
    odd = {**HEADERS, "model.layers.0.self_attn.k_proj.weight": ("BF16", [20, 96])}
    with pytest.raises(Failed, match="20 rows"):
        NATIVE.check_widths(odd, {"bits": 4, "group_size": 32}, 32)


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([32, 64, 128]))
def test_widths_pass_exactly_when_the_group_divides(rows: int, width: int, group: int) -> None:
    headers = {"model.layers.0.mlp.up_proj.weight": ("F16", [32 * rows, 32 * width])}
    if 32 * width % group:
        with pytest.raises(Failed):
            NATIVE.check_widths(headers, {"bits": 4, "group_size": group}, 32)
    else:
        NATIVE.check_widths(headers, {"bits": 4, "group_size": group}, 32)


def test_a_quantized_source_is_no_source() -> None:
    with pytest.raises(Failed, match="16 or 32 bits"):
        NATIVE.dtype_of({"model.layers.0.mlp.up_proj.qweight": ("I32", [72, 576])})


def test_headers_are_read_from_files_and_none_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no safetensors"):
        NATIVE.headers(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {"model.layers.0.a.weight": ("F16", (2, 4))})
    assert NATIVE.headers(tmp_path) == {"model.layers.0.a.weight": ("F16", [2, 4])}


def test_the_configuration_is_the_sources_and_has_no_paths(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "config.json").write_text(
        json.dumps({"model_type": "llama", "torch_dtype": "bfloat16", "_name_or_path": "/home/user/private"})
    )
    for stray in ("quant_log.csv", "quantize_config.json", "config.json", "tokenizer.json"):
        (out / stray).write_text("{}")
    (out / "model.safetensors").write_bytes(b"w")
    (out / "model.safetensors.index.json").write_text("{}")
    NATIVE.only_weights(out)
    assert sorted(p.name for p in out.iterdir()) == ["model.safetensors", "model.safetensors.index.json"]
    made = recipe("gptq", "w4a16-g64", "gptqmodel", RecipeOptions(desc_act=True)).to_json()
    NATIVE.write_config(source, out, GPTQ.quantization(made, "gptqmodel:7.6.0"), "bfloat16")
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "torch_dtype" not in config
    told = config["quantization_config"]
    assert (told["quant_method"], told["bits"], told["group_size"]) == ("gptq", 4, 64)
    assert told["desc_act"] is True
    assert told["meta"]["act_group_aware"] is False
    assert "/" not in json.dumps(config)


def test_few_cores_still_get_two_workers() -> None:
    assert [GPTQ.environment(n)["GPTQMODEL_CPU_WORKERS"] for n in (1, 2, 4, 16, 128)] == ["2", "2", "2", "8", "12"]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=40), max_size=12), st.integers(1, 64))
def test_blocks_are_equal_and_lose_less_than_one(pieces: list[list[int]], length: int) -> None:
    made = AWQ.blocks(pieces, length)
    joined = [i for p in pieces for i in p]
    assert [i for b in made for i in b] == joined[: sum(map(len, made))]
    assert len({len(b) for b in made}) <= 1
    assert len(joined) - sum(map(len, made)) < length


def test_bitsandbytes_is_told_everything() -> None:
    nf4 = recipe("nf4", "nf4", "bitsandbytes", RecipeOptions(double_quant=False)).to_json()
    assert BNB.quantization(nf4, "float16") == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": False,
        "bnb_4bit_compute_dtype": "float16",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": ["lm_head"],
    }
    assert BNB.quantization(recipe("int8", "int8", None, RecipeOptions()).to_json(), "bfloat16")["load_in_8bit"]


def test_awq_is_told_its_layout() -> None:
    made = recipe("awq", "w4a16-g32", "autoawq", RecipeOptions(layout="gemv")).to_json()
    told = AWQ.quantization(made)
    assert (told["version"], told["group_size"], told["zero_point"]) == ("gemv", 32, True)
    assert told["modules_to_not_convert"] is None
