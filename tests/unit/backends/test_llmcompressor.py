"""llm-compressor: what it makes, what its logs mean, and the parts of its runner that need no library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.backends.recipes import recipe
from advisor.backends.registry import quantizers
from advisor.facts.recipe import RecipeOptions
from tests.unit.backends.support import runner

BACKEND = quantizers()["llmcompressor"]
QUANTIZING = runner("quantizing")
RUNNER = runner("quantize_llmcompressor")

LOGS = {
    "needs-accelerator": "RuntimeError: Cannot access accelerator device when none is available.\n",
    "hessian": "2026-11-21T12:00:00 | _log_rtn_fallback_summary | WARNING - Hessian inversion failed for 3/210 modules "
    "(1.4%). These modules were quantized with round-to-nearest instead of GPTQ\n",
    "not-finite": "Failed: 12 values in 2 tensors are not finite (NaN or infinite), first in model.layers.3: 4.\n",
    "no-samples": "Failed: No calibration samples: mine.jsonl has no piece of 8 tokens or more.\n",
    "group-size": "ValueError: The following layers have weight column counts not divisible by group_size. Group and "
    "tensor-group quantization require columns % group_size == 0\n",
    "cannot-trace": "torch.fx.proxy.TraceError: symbolically traced variables cannot be used as inputs\n",
    "out-of-memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 448.00 MiB. GPU 0 has a total\n",
    "crashed": "quantize: quantize_llmcompressor.py was killed by SIGSEGV: it made a wrong memory access\n",
    "disk-full": "OSError: [Errno 28] No space left on device\n",
    "package-missing": "ModuleNotFoundError: No module named 'compressed_tensors'\n",
}


@pytest.mark.parametrize("code", sorted(LOGS))
def test_known_failures(code: str) -> None:
    found = BACKEND.diagnose("INFO - Quantizing 7 module(s)\n" * 30 + LOGS[code])
    assert found is not None
    assert found.code == code
    assert found.remedy
    assert "{0}" not in found.message


def test_a_healthy_log_is_no_finding() -> None:
    log = (
        "Loading weights: 100%|##########| 20/20\n"
        "2026-11-21T12:07:31 | get_layer_mappings | INFO - No AWQModifier.mappings provided, inferring from model...\n"
        "(1/3): Calibrating: 100%|##########| 8/8\nWriting model shards: 100%|##########| 1/1\n"
    )
    assert BACKEND.diagnose(log) is None


def test_what_it_makes() -> None:
    can = BACKEND.capabilities()
    assert can.executable
    assert (can.needs, can.env, BACKEND.runner) == ((), "llmcompressor", "quantize_llmcompressor.py")
    assert set(can.methods) == {"awq", "gptq", "w8a8", "fp8", "nvfp4", "mxfp4", "rtn"}
    assert all(can.makes(m, f) for m, formats in can.methods.items() for f in formats)
    assert not can.makes("awq", "w8a16-g64")
    assert not can.makes("gptq", "w3a16-g64")


def test_every_format_has_a_scheme() -> None:
    for method, formats in BACKEND.capabilities().methods.items():
        for fmt in formats:
            made = recipe(method, fmt, "llmcompressor", RecipeOptions())
            BACKEND.check(made)
            told = RUNNER.scheme(made.to_json())
            assert ("scheme" in told) != ("config_groups" in told)
            if "config_groups" in told and made.group_size:
                weights = told["config_groups"]["group_0"]["weights"]
                assert (weights["num_bits"], weights["group_size"]) == (made.bits, made.group_size)
                assert weights["symmetric"] is made.symmetric
    static = recipe("fp8", "fp8", None, RecipeOptions(static_activations=True))
    assert RUNNER.scheme(static.to_json())["scheme"] == "FP8"
    w8a8 = RUNNER.scheme(recipe("w8a8", "w8a8", None, RecipeOptions()).to_json())["config_groups"]["group_0"]
    assert (w8a8["weights"]["strategy"], w8a8["input_activations"]["strategy"]) == ("channel", "token")
    assert w8a8["input_activations"]["dynamic"] is True


def test_routers_stay_as_they_are() -> None:
    assert RUNNER.ROUTER.search("model.layers.3.mlp.gate")
    assert RUNNER.ROUTER.search("model.layers.3.mlp.shared_expert_gate")
    assert not RUNNER.ROUTER.search("model.layers.3.mlp.gate_proj")


class Tokenizer:
    """A token a word; a template that marks whose turn it is."""

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": ([1] if add_special_tokens else []) + [len(w) + 10 for w in text.split()]}

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool) -> str:
        assert not tokenize
        return " ".join(f"<{m['role']}> {m['content']}" for m in messages)


def asked(path: Path | None, samples: int, length: int = 64) -> dict[str, Any]:
    kept = {"method": "awq", "samples": samples, "sequence_length": length}
    return {"recipe": kept, "calibration": str(path) if path else None}


def test_pieces_are_cut_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    talk = {"messages": [{"role": "user", "content": "a b c d"}, {"role": "assistant", "content": "e f g h"}]}
    lines = [{"text": "word " * 100}, {"text": "too short"}, talk, {"text": "w " * 20}, {"text": "w " * 20}]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    found = QUANTIZING.pieces(Tokenizer(), asked(path, 3, 50))
    assert [len(p) for p in found] == [50, 10, 21]
    assert found[0][0] == 1
    assert found[1][0] != 1, "the template has the begin token where there is one"
    assert QUANTIZING.pieces(Tokenizer(), asked(None, 0)) == []


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("", "No calibration samples"),
        ('{"text": "a b"}\n', "No calibration samples"),
        ("not json\n", "line 1 is not JSON"),
        ('{"prompt": "x"}\n', "neither a text nor messages"),
        ("[1]\n", "neither a text nor messages"),
    ],
)
def test_unusable_text(tmp_path: Path, raw: str, words: str) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(raw)
    with pytest.raises(runner("protocol").Failed, match=words):
        QUANTIZING.pieces(Tokenizer(), asked(path, 4))


def test_text_that_was_not_given() -> None:
    with pytest.raises(runner("protocol").Failed, match="none was given"):
        QUANTIZING.pieces(Tokenizer(), asked(None, 4))


def test_progress_by_layers_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, float | None, str]] = []
    monkeypatch.setattr(
        runner("protocol"), "progress", lambda done, total, unit, message="", **_: told.append((done, total, message))
    )
    layers = QUANTIZING.Layers(4, already=1)
    layers.done()
    layers.done(1)
    layers.done(9, "layer 9")
    assert [(d, t) for d, t, _ in told] == [(1, 4), (2, 4), (2, 4), (4, 4)]
    assert "left" in told[1][2]
    assert told[3][2].startswith("layer 9: ")
    assert told[3][2].endswith("about 0 s left")


def test_the_tokenizer_is_copied_as_it_is(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "tokenizer.json").write_text("{}")
    (source / "chat_template.jinja").write_text("{{ x }}")
    (source / "tokenization_own.py").write_text("import os")
    (source / "model.safetensors").write_bytes(b"x")
    (out / "tokenizer.json").write_text("rewritten")
    assert QUANTIZING.copy_tokenizer(source, out) == ["tokenizer.json", "chat_template.jinja"]
    assert sorted(p.name for p in out.iterdir()) == ["chat_template.jinja", "tokenizer.json"]
    assert (out / "tokenizer.json").read_text() == "{}"


def test_sizes_and_versions(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(bytes(10))
    (tmp_path / "a.safetensors").chmod(0o600)
    (tmp_path / "config.json").write_text("{}")
    assert QUANTIZING.tidy(tmp_path) == 10
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644
    assert QUANTIZING.peak_bytes() > 1 << 20
    assert set(QUANTIZING.versions("msgspec", "no-such-package")) == {"msgspec"}
