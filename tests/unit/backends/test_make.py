"""The model-making steps with a runner that is scripted: what is published, what is refused, what is reused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import AdvisorError
from advisor.execute import make
from advisor.execute.chain import make_gguf
from advisor.execute.envs import Env
from advisor.execute.make import Making
from advisor.execute.store import Store
from advisor.model.resolve import resolve
from tests.support import gpt_oss
from tests.unit.backends.support import runner

MIN = runner("gguf_min")
ENV = Env(name="convert", path="/none", python="/none/bin/python", digest="d")
Behaviour = Callable[[dict[str, Any]], dict[str, Any]]
HIDDEN, INNER, VOCAB, LAYERS = 256, 512, 300, 2


def model_file(path: Path, types: dict[str, str] | str) -> Path:
    """A header of a small Llama; ``types``: one for all matrices, or by tensor."""

    def kind(name: str) -> str:
        if name.endswith("norm.weight"):
            return "f32"
        return types if isinstance(types, str) else types[name]

    shapes = {"token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,), "output.weight": (VOCAB, HIDDEN)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{n}_norm.weight": (HIDDEN,) for n in ("attn", "ffn")}
        shapes |= {f"blk.{i}.attn_{n}.weight": (HIDDEN, HIDDEN) for n in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_{n}.weight": (INNER, HIDDEN) for n in ("gate", "up")}
        shapes[f"blk.{i}.ffn_down.weight"] = (HIDDEN, INNER)
    keys = {
        "context_length": 512, "embedding_length": HIDDEN, "block_count": LAYERS, "feed_forward_length": INNER,
        "attention.head_count": 4, "attention.head_count_kv": 4, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": 64, "vocab_size": VOCAB,
    }  # fmt: skip
    metadata = {"general.architecture": "llama", "general.name": "small", **{f"llama.{k}": v for k, v in keys.items()}}
    metadata |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": [f"t{i}" for i in range(VOCAB)]}
    MIN.write_sparse(path, metadata, [(n, s, kind(n)) for n, s in shapes.items()])
    return path


class Runner:
    """Stands in for ``run_runner``: remembers requests, does what ``behaviour`` says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour, self.requests = behaviour, []

    def __call__(self, env: Env, script: str, request: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.requests.append({"script": script, **request})
        return self.behaviour(self.requests[-1])


@pytest.fixture
def making(tmp_path: Path) -> Making:
    return Making(store=Store(tmp_path / "store"), env=ENV, logs=tmp_path / "logs", threads=1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return model_file(tmp_path / "small-F16.gguf", "f16")


def scripted(monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour) -> Runner:
    r = Runner(behaviour)
    monkeypatch.setattr(make, "run_runner", r)
    return r


def obedient(request: dict[str, Any]) -> dict[str, Any]:
    out = Path(request["out"])
    if request["script"] == "quantize.py":
        model_file(out, request["types"])
        used = 14 if request["imatrix"] else 0
        return {"out": str(out), "types": request["types"], "imatrix_used": used, "imatrix_missing": [], "seconds": 1.0}
    if request["script"] == "restore.py":
        (out / "config.json").write_text("{}")
        (out / "model.safetensors").write_bytes(b"x")
        return {"out": str(out), "bytes": 1}
    if request["script"] == "imatrix.py":
        out.write_bytes(b"GGUF")
        return {"out": str(out), "tensors": 14, "seconds_per_chunk": 0.1}
    model_file(out, request["outtype"])
    return {"out": str(out), "differences": [], "types": {}}


def test_a_finished_artifact_is_found_again(making: Making, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r = scripted(monkeypatch, obedient)
    first = make.quantize_gguf(making, source, "q4_k_m", name="small model")
    again = make.quantize_gguf(making, source, "q4_k_m", name="small model")
    assert len(r.requests) == 1
    assert not first.reused
    assert again.reused
    assert again.path == first.path
    assert first.path.name == "small-model-q4_k_m.gguf"
    assert first.manifest["types"]["q4_k"] > 0
    assert first.manifest["fallbacks"] == {}
    assert first.manifest["bytes"] == first.path.stat().st_size
    other = make.quantize_gguf(making, source, "q5_k_m", name="small model")
    assert other.key != first.key


def f16_instead(request: dict[str, Any]) -> dict[str, Any]:
    model_file(Path(request["out"]), "f16")
    return {"imatrix_used": 0, "imatrix_missing": []}


def empty(request: dict[str, Any]) -> dict[str, Any]:
    Path(request["out"]).write_bytes(b"")
    return {"imatrix_used": 0, "imatrix_missing": []}


def garbage(request: dict[str, Any]) -> dict[str, Any]:
    Path(request["out"]).write_bytes(b"<html>sorry</html>" * 100)
    return {"imatrix_used": 0, "imatrix_missing": []}


def cut_off(request: dict[str, Any]) -> dict[str, Any]:
    path = model_file(Path(request["out"]), request["types"])
    with path.open("r+b") as f:
        f.truncate(path.stat().st_size - 5000)
    return {"imatrix_used": 0, "imatrix_missing": []}


def too_long(request: dict[str, Any]) -> dict[str, Any]:
    path = model_file(Path(request["out"]), request["types"])
    with path.open("ab") as f:
        f.write(bytes(5000))
    return {"imatrix_used": 0, "imatrix_missing": []}


def killed(request: dict[str, Any]) -> dict[str, Any]:
    model_file(Path(request["out"]), request["types"])
    raise AdvisorError("quantizer-failed", "The quantizer was ended by SIGSEGV.")


@pytest.mark.parametrize("behaviour", [f16_instead, empty, garbage, cut_off, too_long, killed])
def test_a_bad_result_is_never_published(
    making: Making, source: Path, monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour
) -> None:
    scripted(monkeypatch, behaviour)
    with pytest.raises(AdvisorError) as e:
        make.quantize_gguf(making, source, "q4_k_m", name="small")
    assert e.value.code == ("quantizer-failed" if behaviour is killed else "artifact-invalid")
    assert e.value.exit_code == 1
    assert making.store.entries() == ()


def test_with_an_importance_matrix_the_types_must_be_exact(
    making: Making, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = tmp_path / "imatrix.gguf"
    matrix.write_bytes(b"GGUF")

    def one_off(request: dict[str, Any]) -> dict[str, Any]:
        types = {**request["types"], "blk.0.attn_q.weight": "q5_k"}
        model_file(Path(request["out"]), types)
        return {"imatrix_used": 5, "imatrix_missing": []}

    scripted(monkeypatch, one_off)
    with pytest.raises(AdvisorError, match=r"blk\.0\.attn_q\.weight is q5_k, not q4_k") as e:
        make.quantize_gguf(making, source, "q4_k_m", name="small", imatrix=matrix)
    assert e.value.code == "artifact-invalid"


def test_without_one_a_single_difference_is_a_note(
    making: Making, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_off(request: dict[str, Any]) -> dict[str, Any]:
        model_file(Path(request["out"]), {**request["types"], "blk.0.attn_q.weight": "q5_k"})
        return {"imatrix_used": 0, "imatrix_missing": []}

    scripted(monkeypatch, one_off)
    made = make.quantize_gguf(making, source, "q4_k_m", name="small")
    assert made.manifest["notes"] == ["blk.0.attn_q.weight is q5_k; q4_k was predicted"]


def test_formats_that_are_not_quantized_are_refused_by_name(making: Making, source: Path) -> None:
    with pytest.raises(AdvisorError) as e:
        make.quantize_gguf(making, source, "f16", name="small")
    assert e.value.code == "bad-option"


def test_a_converted_model_whose_tokenizer_changed_is_invalid(
    making: Making, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")

    def changed(request: dict[str, Any]) -> dict[str, Any]:
        return {**obedient(request), "differences": ["tokenizer.ggml.eos_token_id differs"]}

    scripted(monkeypatch, changed)
    with pytest.raises(AdvisorError, match="eos_token_id") as e:
        make.convert_to_gguf(making, tmp_path / "hf", name="m", tokenizer_of=source)
    assert e.value.code == "artifact-invalid"


def test_a_16_bit_file_is_its_own_reference(making: Making, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r = scripted(monkeypatch, obedient)
    chain = make_gguf(making, resolve(str(source)), "q4_k_m")
    assert [q["script"] for q in r.requests] == ["quantize.py"]
    assert chain.reference == source
    assert chain.artifact.path.name == "small-q4_k_m.gguf"


def test_an_importance_matrix_takes_a_checkpoint_and_a_text(
    making: Making, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "words.txt"
    text.write_text("words " * 1000)
    r = scripted(monkeypatch, obedient)
    chain = make_gguf(making, resolve(str(source)), "iq4_xs", imatrix=True, text=text, chunks=2)
    assert [q["script"] for q in r.requests] == ["restore.py", "imatrix.py", "quantize.py"]
    assert chain.artifact.manifest["imatrix"] is True
    with pytest.raises(AdvisorError, match="calibration text"):
        make_gguf(making, resolve(str(source)), "iq4_xs", imatrix=True)


def test_a_quantized_source_is_not_quantized_again_unasked(
    making: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = model_file(tmp_path / "small-Q8_0.gguf", "q8_0")
    r = scripted(monkeypatch, obedient)
    with pytest.raises(AdvisorError, match="quantized already") as e:
        make_gguf(making, resolve(str(packed)), "q4_k_m")
    assert e.value.exit_code == 2
    chain = make_gguf(making, resolve(str(packed)), "q4_k_m", allow_requantize=True)
    assert [q["script"] for q in r.requests] == ["restore.py", "convert.py", "quantize.py"]
    assert chain.reference != packed
    assert chain.notes


def test_experts_in_mxfp4_go_through_conversion_and_are_made_into_nothing_else(
    making: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hf"
    gpt_oss.write(folder, 64)
    model = resolve(str(folder))
    r = scripted(monkeypatch, obedient)
    with pytest.raises(AdvisorError, match="trained in") as e:
        make_gguf(making, model, "q4_k_m", allow_requantize=True)
    assert e.value.hint == f"advisor quantize {folder} --format mxfp4"
    assert r.requests == []
    # A converter that widened them did not do what was asked.
    with pytest.raises(AdvisorError, match="was asked for") as e:
        make_gguf(making, model, "mxfp4")
    assert e.value.code == "artifact-invalid"
    assert [q["script"] for q in r.requests] == ["convert.py"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("SmolLM2-135M", "SmolLM2-135M"),
        ("../../etc/x", "etc-x"),
        ("a b/c", "a-b-c"),
        ("..", "model"),
        ("é" * 3, "model"),
    ],
)
def test_model_names_become_plain_file_names(name: str, stem: str) -> None:
    assert make.file_stem(name) == stem
