"""llm-compressor for real: each method makes a checkpoint of a real model, of the size that was predicted."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from advisor.backends.recipes import recipe
from advisor.execute.checkpoint import judge, predicted_bytes, quantize_checkpoint
from advisor.execute.make import Made, Making
from advisor.facts.recipe import RecipeOptions
from advisor.model.tensors import computed
from tests.support import checkpoints

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]
STATIC = RecipeOptions(static_activations=True, samples=4, sequence_length=128)
FEW = RecipeOptions(samples=4, sequence_length=128)


@pytest.fixture(scope="module")
def making(shared_home: Path) -> Making:
    return checkpoints.making(shared_home, "llmcompressor")


@pytest.fixture(scope="module")
def whole(shared_home: Path) -> Path:
    return checkpoints.whole(shared_home)


@pytest.fixture(scope="module")
def two(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.two_layers(shared_home, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.text_lines(tmp_path_factory.mktemp("text") / "calibration.jsonl")


def holds(made: Made, source: Path, matrices: int) -> None:
    m = made.manifest
    assert m["packed"] == m["quantized"] == matrices
    assert m["kept"] == ["lm_head"]
    assert m["non_finite"] == 0
    assert m["tensor_bytes"] == pytest.approx(m["predicted_bytes"], rel=0.01)
    assert m["seconds"] > 0
    assert m["peak_bytes"] > m["bytes"]
    assert m["versions"]["llmcompressor"]
    assert m["notes"] == []
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (made.path / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "fmt", "options"),
    [
        ("rtn", "w4a16-g64", RecipeOptions()),
        ("w8a8", "w8a8", FEW),
        ("fp8", "fp8", RecipeOptions()),
    ],
)
def test_a_whole_model_in_seconds(
    making: Making, whole: Path, text: Path, method: str, fmt: str, options: RecipeOptions
) -> None:
    made = quantize_checkpoint(
        making, whole, recipe(method, fmt, "llmcompressor", options), name="smollm2", calibration=text
    )
    holds(made, whole, 7 * 30)


@pytest.mark.parametrize(
    ("method", "fmt", "options"),
    [
        ("awq", "w4a16-g64", FEW),
        ("gptq", "w4a16-g64", FEW),
        ("nvfp4", "nvfp4", RecipeOptions()),
        pytest.param("mxfp4", "mxfp4", RecipeOptions(), marks=pytest.mark.long),
        pytest.param("rtn", "w8a16-g32", RecipeOptions(sym=False), marks=pytest.mark.long),
        pytest.param("fp8", "fp8", STATIC, marks=pytest.mark.long),
    ],
)
def test_two_layers(making: Making, two: Path, text: Path, method: str, fmt: str, options: RecipeOptions) -> None:
    made = quantize_checkpoint(making, two, recipe(method, fmt, "llmcompressor", options), name="two", calibration=text)
    holds(made, two, 7 * 2)
    assert made.manifest["samples"] == (options.samples or 0)
    assert made.manifest["tokens"] == (options.samples or 0) * (options.sequence_length or 0)


def test_the_model_that_was_cut_is_the_model(two: Path) -> None:
    from advisor.model.resolve import resolve

    facts = resolve(str(two))
    assert (facts.layers, facts.hidden, facts.intermediate, facts.tie_embeddings) == (2, 576, 1536, True)
    assert {t.width for t in computed(facts) if t.packed} == {576, 1536}


_SCRIPT = """
    import sys
    from pathlib import Path
    from advisor.backends.recipes import recipe
    from advisor.execute.checkpoint import quantize_checkpoint
    from advisor.facts.recipe import RecipeOptions
    from tests.support import checkpoints
    home, store, two, text = map(Path, sys.argv[1:])
    from dataclasses import replace
    told = lambda event: print(event.message or event.kind, flush=True)
    making = replace(checkpoints.making(home, "llmcompressor", store=store), reporter=told)
    asked = RecipeOptions(samples=4, sequence_length=128)
    quantize_checkpoint(making, two, recipe("gptq", "w4a16-g64", "llmcompressor", asked), name="two", calibration=text)
"""


def test_kill_9_in_the_middle_and_once_more(shared_home: Path, two: Path, text: Path, tmp_path: Path) -> None:
    """Nothing is published, nothing goes on running, and the same call makes it."""
    store = tmp_path / "store"
    words = [sys.executable, "-c", textwrap.dedent(_SCRIPT), str(shared_home), str(store), str(two), str(text)]
    with subprocess.Popen(words, cwd=REPO, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while "left" not in (line := child.stdout.readline()):  # the first layer is done
            assert line, "it ended before it was killed"
        started = _below(child.pid)
        child.send_signal(signal.SIGKILL)
    assert not list((store / "artifacts").glob("*"))
    until = time.monotonic() + 30
    assert started
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < until
        time.sleep(0.1)
    making = checkpoints.making(shared_home, "llmcompressor", store=store)
    made = quantize_checkpoint(
        making, two, recipe("gptq", "w4a16-g64", "llmcompressor", FEW), name="two", calibration=text
    )
    assert not made.reused
    holds(made, two, 14)
    assert judge(made.path, recipe("gptq", "w4a16-g64", "llmcompressor", FEW), source=two)[1] == []
    making.store.gc()
    assert [p for p in (store / "tmp").iterdir() if any(p.rglob("*.safetensors"))] == []


def _below(pid: int) -> set[int]:
    """All processes that ``pid`` started, and theirs."""
    parents = {}
    told = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    for line in told.splitlines():
        child, parent = map(int, line.split())
        parents[child] = parent
    found = {pid}
    while more := {c for c, p in parents.items() if p in found} - found:
        found |= more
    return found - {pid}


def test_predicted_sizes_of_the_whole_model(whole: Path) -> None:
    """The prediction needs the configuration alone."""
    rounded = recipe("rtn", "w4a16-g64", None, RecipeOptions())
    asymmetric = recipe("awq", "w4a16-g64", None, RecipeOptions())
    assert 110e6 < predicted_bytes(whole, rounded) < predicted_bytes(whole, asymmetric) < 116e6
