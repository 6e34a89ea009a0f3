"""The step that makes a checkpoint, over a scripted runner: what is published, what is refused, how it is explained."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.backends.recipes import recipe
from advisor.errors import AdvisorError
from advisor.events import Event
from advisor.execute import make, proc
from advisor.execute.checkpoint import RECIPE_FILE, judge, predicted_bytes, quantize_checkpoint
from advisor.execute.envs import Env
from advisor.execute.make import Making
from advisor.execute.store import Store
from advisor.facts.base import loads
from advisor.facts.recipe import Recipe, RecipeOptions
from tests.support.safetensors_writer import llama_tensors, write_safetensors

ENV = Env(name="llmcompressor", path="/none", python="/none/bin/python", digest="d")
SHAPE = {"layers": 2, "hidden": 256, "heads": 4, "kv_heads": 4, "ff": 512, "vocab": 300}
RTN = recipe("rtn", "w4a16-g64", None, RecipeOptions())
W8A8 = recipe("w8a8", "w8a8", None, RecipeOptions(samples=16))
Behaviour = Callable[[dict[str, Any]], dict[str, Any]]
Tensors = dict[str, tuple[str, tuple[int, ...]]]

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 300,
    "max_position_embeddings": 512, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text('{"model": {}}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    write_safetensors(folder / "model.safetensors", llama_tensors(**SHAPE))
    return folder


@pytest.fixture
def making(tmp_path: Path) -> Making:
    return Making(store=Store(tmp_path / "store"), env=ENV, logs=tmp_path / "logs", threads=1)


def told(bits: int, group: int | None, *, kind: str = "int", symmetric: bool = True, inputs: bool = False) -> Any:
    weights = {"num_bits": bits, "group_size": group, "type": kind, "symmetric": symmetric, "strategy": "group"}
    activations = {"num_bits": 8, "type": kind} if inputs else None
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}


def packed(group: int = 64, *, left: tuple[str, ...] = ()) -> Tensors:
    """What llm-compressor writes of 4-bit weights in groups."""
    out: Tensors = {}
    for name, (dtype, shape) in llama_tensors(**SHAPE).items():
        if not name.endswith("_proj.weight") or any(part in name for part in left):
            out[name] = (dtype, shape)
            continue
        stem = name.removesuffix("weight")
        out[f"{stem}weight_packed"] = ("I32", (shape[0], shape[1] // 8))
        out[f"{stem}weight_scale"] = ("BF16", (shape[0], shape[1] // group))
        out[f"{stem}weight_shape"] = ("I64", (2,))
    return out


def channels() -> Tensors:
    """What it writes of INT8 weights with a scale a row."""
    out: Tensors = {}
    for name, (dtype, shape) in llama_tensors(**SHAPE).items():
        if not name.endswith("_proj.weight"):
            out[name] = (dtype, shape)
            continue
        out[name] = ("I8", shape)
        out[f"{name}_scale"] = ("BF16", (shape[0], 1))
    return out


def written(request: dict[str, Any], tensors: Tensors, quantization: Any) -> dict[str, Any]:
    out, folder = Path(request["out"]), Path(request["folder"])
    config = {**CONFIG, **({"quantization_config": quantization} if quantization else {})}
    (out / "config.json").write_text(json.dumps(config))
    write_safetensors(out / "model.safetensors", tensors)
    for name in ("tokenizer.json", "chat_template.jinja"):
        (out / name).write_bytes((folder / name).read_bytes())
    count = sum(1 for n, (d, _) in tensors.items() if n.endswith("weight_packed") or d == "I8")
    return {
        "out": str(out), "bytes": 1, "quantized": count, "kept": ["lm_head"], "samples": 0, "tokens": 0,
        "non_finite": 0, "seconds": 2.0, "peak_bytes": 5, "versions": {"torch": "2"}, "notes": ["rounded \x1b[31mone"],
    }  # fmt: skip


def good(request: dict[str, Any]) -> dict[str, Any]:
    if request["recipe"]["method"] == "w8a8":
        return written(request, channels(), told(8, None, inputs=True))
    return written(request, packed(), told(4, 64))


class Runner:
    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour, self.requests = behaviour, []

    def __call__(self, env: Env, script: str, request: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.requests.append({"script": script, **request})
        return self.behaviour(self.requests[-1])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Behaviour], Runner]:
    def use(behaviour: Behaviour) -> Runner:
        runner = Runner(behaviour)
        monkeypatch.setattr(make, "run_runner", runner)
        return runner

    return use


Use = Callable[[Behaviour], Runner]


def test_it_is_made_once_and_says_what_it_is(making: Making, source: Path, run: Use) -> None:
    runner = run(good)
    made = quantize_checkpoint(making, source, RTN, name="small model")
    again = quantize_checkpoint(making, source, RTN, name="small model")
    assert (len(runner.requests), made.reused, again.reused) == (1, False, True)
    sent = runner.requests[0]
    assert sent["script"] == "quantize_llmcompressor.py"
    assert (sent["folder"], sent["calibration"], sent["threads"]) == (str(source), None, 1)
    assert loads(Recipe, json.dumps(sent["recipe"])) == RTN
    assert loads(Recipe, (made.path / RECIPE_FILE).read_bytes()) == RTN
    m = made.manifest
    assert (m["method"], m["format"], m["quantizer"], m["packed"]) == ("rtn", "w4a16-g64", "llmcompressor", 14)
    assert m["tensor_bytes"] == m["predicted_bytes"] == predicted_bytes(source, RTN)
    assert m["bytes"] == (made.path / "model.safetensors").stat().st_size
    assert (m["seconds"], m["peak_bytes"], m["versions"]) == (2.0, 5, {"torch": "2"})
    assert len(m["notes"]) == 1
    assert "\x1b" not in m["notes"][0]
    assert made.path.name == "checkpoint"


def test_what_decides_the_result_decides_the_key(making: Making, source: Path, run: Use, tmp_path: Path) -> None:
    run(good)
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "one"}\n')
    first = quantize_checkpoint(making, source, W8A8, name="a", calibration=text)
    text.write_text('{"text": "two"}\n')
    second = quantize_checkpoint(making, source, W8A8, name="a", calibration=text)
    third = quantize_checkpoint(making, source, RTN, name="a", calibration=text)
    assert len({first.key, second.key, third.key}) == 3
    assert quantize_checkpoint(making, source, RTN, name="a").reused


def test_text_is_asked_for_before_anything_is_started(making: Making, source: Path, run: Use) -> None:
    runner = run(good)
    with pytest.raises(AdvisorError) as e:
        quantize_checkpoint(making, source, W8A8, name="a")
    assert e.value.code == "illegal-recipe"
    assert runner.requests == []


def test_a_quantizer_that_is_only_planned_with(making: Making, source: Path) -> None:
    none = recipe("none", "bf16", None, RecipeOptions())
    with pytest.raises(AdvisorError) as e:
        quantize_checkpoint(making, source, none, name="a")
    assert e.value.code == "not-available"


def plain(request: dict[str, Any]) -> dict[str, Any]:
    return written(request, llama_tensors(**SHAPE), None)


def claims(request: dict[str, Any]) -> dict[str, Any]:
    return written(request, llama_tensors(**SHAPE), told(4, 64))


def other_group(request: dict[str, Any]) -> dict[str, Any]:
    return written(request, packed(32), told(4, 32))


def zero_points(request: dict[str, Any]) -> dict[str, Any]:
    return written(request, packed(), told(4, 64, symmetric=False))


def pickle(request: dict[str, Any]) -> dict[str, Any]:
    (Path(request["out"]) / "qmodel.pt").write_bytes(b"\x80\x04.")
    return good(request)


def code(request: dict[str, Any]) -> dict[str, Any]:
    (Path(request["out"]) / "modeling_x.py").write_text("import os")
    return good(request)


def nothing(request: dict[str, Any]) -> dict[str, Any]:
    return {"quantized": 14}


def no_weights(request: dict[str, Any]) -> dict[str, Any]:
    result = good(request)
    (Path(request["out"]) / "model.safetensors").unlink()
    return result


def cut(request: dict[str, Any]) -> dict[str, Any]:
    result, file = good(request), Path(request["out"]) / "model.safetensors"
    with file.open("r+b") as f:
        f.truncate(file.stat().st_size - 100)
    return result


def garbage(request: dict[str, Any]) -> dict[str, Any]:
    result = good(request)
    (Path(request["out"]) / "model.safetensors").write_bytes(b"<html>" * 100)
    return result


def nan(request: dict[str, Any]) -> dict[str, Any]:
    return {**good(request), "non_finite": 3}


def half(request: dict[str, Any]) -> dict[str, Any]:
    return {**written(request, packed(left=(".1.",)), told(4, 64)), "quantized": 14}


def tokenizer(request: dict[str, Any]) -> dict[str, Any]:
    result = good(request)
    (Path(request["out"]) / "tokenizer.json").write_text("{}")
    return result


def link(request: dict[str, Any]) -> dict[str, Any]:
    (Path(request["out"]) / "vocab.json").symlink_to("/etc/hostname")
    return good(request)


def wild(request: dict[str, Any]) -> dict[str, Any]:
    return written(request, {**packed(), "extra.weight": ("F32", (4096, 1024))}, told(4, 64))


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (plain, "no quantization_config"),
        (claims, "no matrix is packed"),
        (other_group, "w4a16-g32"),
        (zero_points, "symmetric weights were asked for"),
        (pickle, "qmodel.pt"),
        (code, "modeling_x.py"),
        (nothing, "config.json was not written"),
        (no_weights, "No weights"),
        (cut, "model.safetensors is not usable"),
        (garbage, "model.safetensors is not usable"),
        (nan, "not finite"),
        (half, "7 are packed"),
        (tokenizer, "tokenizer.json is not that of the source"),
        (link, "link"),
        (wild, "were expected"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_what_is_not_what_was_asked_for_is_not_published(
    making: Making, source: Path, run: Use, behaviour: Behaviour, words: str
) -> None:
    run(behaviour)
    with pytest.raises(AdvisorError) as e:
        quantize_checkpoint(making, source, RTN, name="a")
    assert e.value.code == "artifact-invalid"
    assert words in e.value.message
    assert making.store.entries() == ()
    run(good)
    assert not quantize_checkpoint(making, source, RTN, name="a").reused


def test_small_differences_are_told(making: Making, source: Path, run: Use) -> None:
    def larger(request: dict[str, Any]) -> dict[str, Any]:
        half_more = math.isqrt(predicted_bytes(source, RTN) // 40)
        return written(request, {**packed(), "extra.weight": ("BF16", (half_more, half_more))}, told(4, 64))

    run(larger)
    notes = quantize_checkpoint(making, source, RTN, name="a").manifest["notes"]
    assert any("of what was predicted" in n for n in notes)


def test_a_matrix_that_stayed_is_told(making: Making, source: Path, run: Use) -> None:
    def some(request: dict[str, Any]) -> dict[str, Any]:
        return written(request, packed(left=("k_proj", "v_proj")), told(4, 64))

    run(some)
    notes = quantize_checkpoint(making, source, RTN, name="a").manifest["notes"]
    assert any("stayed in 16 bits" in n for n in notes)


@pytest.mark.parametrize(
    ("message", "finding", "exit_code", "error"),
    [
        ("quantize: x was killed by SIGKILL; if nobody killed it by hand, memory ran out.", "out-of-memory", 137,
         "out-of-memory"),
        ("quantize: x was killed by SIGSEGV: it made a wrong memory access", "crashed", 139, "quantizer-failed"),
        ("LinAlgError: linalg.cholesky: The factorization could not be completed because the input is not "
         "positive-definite", "hessian", 1, "quantizer-failed"),
        ("No calibration samples: t.jsonl has no piece of 8 tokens or more.", "no-samples", 1, "quantizer-failed"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "out-of-memory", 1,
         "out-of-memory"),
    ],
)  # fmt: skip
def test_a_known_failure_comes_with_its_remedy(
    making: Making, source: Path, run: Use, message: str, finding: str, exit_code: int, error: str
) -> None:
    def fails(request: dict[str, Any]) -> dict[str, Any]:
        raise AdvisorError("quantizer-failed", message, data={"backend_exit": exit_code, "log": "/none"})

    run(fails)
    with pytest.raises(AdvisorError) as e:
        quantize_checkpoint(making, source, RTN, name="a")
    assert e.value.code == error
    assert e.value.data["finding"]["code"] == finding
    assert e.value.data["backend_exit"] == exit_code
    assert e.value.hint
    assert making.store.entries() == ()


def test_the_log_is_read_where_the_message_says_nothing(making: Making, source: Path, run: Use, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("x\n" * 100_000 + "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory\n")

    def fails(request: dict[str, Any]) -> dict[str, Any]:
        raise AdvisorError("quantizer-failed", "it ended with exit status 1.", data={"log": str(log)})

    run(fails)
    with pytest.raises(AdvisorError) as e:
        quantize_checkpoint(making, source, RTN, name="a")
    assert e.value.data["finding"]["code"] == "out-of-memory"


def test_an_unknown_failure_stays_as_it_is(making: Making, source: Path, run: Use) -> None:
    def fails(request: dict[str, Any]) -> dict[str, Any]:
        raise AdvisorError("quantizer-failed", "KeyError: 'x'")

    run(fails)
    with pytest.raises(AdvisorError) as e:
        quantize_checkpoint(making, source, RTN, name="a")
    assert (e.value.message, e.value.hint) == ("KeyError: 'x'", None)


def test_a_folder_can_be_judged_by_itself(making: Making, source: Path, run: Use) -> None:
    run(good)
    made = quantize_checkpoint(making, source, RTN, name="a")
    found, notes = judge(made.path, RTN, source=source)
    assert (found.packed, notes) == (14, [])


_DIES = """
import json, os, sys
from pathlib import Path
request = json.load(sys.stdin)
(Path(request["out"]) / "model.safetensors").write_bytes(b"half")
os.write(3, b'{"type": "progress", "done": 1, "total": 3, "unit": "layers", "message": "5 s, about 10 s left"}\\n')
print("last words", flush=True)
os.kill(os.getpid(), %d)
"""


@pytest.mark.parametrize(
    ("number", "code", "finding"), [(9, "out-of-memory", "out-of-memory"), (11, "quantizer-failed", "crashed")]
)
def test_a_runner_that_is_really_killed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str, finding: str
) -> None:
    folder = tmp_path / "runners"
    folder.mkdir()
    (folder / "quantize_llmcompressor.py").write_text(_DIES % number)
    (folder / "protocol.py").write_text("")
    monkeypatch.setattr(make, "RUNNERS", folder)
    monkeypatch.setattr(proc, "RUNNERS", folder)
    here = Env(name="llmcompressor", path=sys.prefix, python=sys.executable, digest="d")
    heard: list[Event] = []
    making = Making(store=Store(tmp_path / "store"), env=here, logs=tmp_path / "logs", reporter=heard.append)
    with pytest.raises(AdvisorError) as e:
        quantize_checkpoint(making, source, RTN, name="a")
    assert e.value.code == code
    assert e.value.data["backend_exit"] == 128 + number
    assert e.value.data["finding"]["code"] == finding
    assert "last words" in e.value.context
    assert [h.done for h in heard if h.kind == "progress"] == [1]
    assert making.store.entries() == ()
    assert list((tmp_path / "store" / "tmp").iterdir()) == []
