"""Quantizing and measuring importance by llama.cpp's own tools: what is published, what is refused, what is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from advisor.backends.llama.binary import Binary
from advisor.errors import AdvisorError
from advisor.events import Event
from advisor.execute import make
from advisor.execute.chain import make_gguf
from advisor.execute.envs import Env
from advisor.execute.llama import fit
from advisor.execute.llama import make as tools
from advisor.execute.make import Making
from advisor.execute.store import Store
from advisor.facts.plan import Settings
from advisor.model.resolve import resolve
from tests.unit.backends.test_make import model_file

TOOL = """#!{python} -I
import shutil, sys
open({calls!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
{body}
"""
COPY = "print('[   1/   2] blk.0'); print('[   2/   2] blk.1', flush=True); shutil.copy({made!r}, sys.argv[-3])"
REFUSES = "sys.exit('llama_model_quantize: failed to quantize: requantizing from type q4_K is disabled')"
IMATRIX = (
    "out = sys.argv[sys.argv.index('-o') + 1]; print('[1]5.1,[2]4.9,', flush=True); open(out, 'wb').write({raw!r})"
)


class Bench:
    """A store, a 16-bit model, and tools that do as they are told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.told = folder, list[Event]()
        self.source = model_file(folder / "small-f16.gguf", "f16")
        self.making = Making(
            store=Store(folder / "store"),
            env=Env(name="convert", path="/none", python="/none/python", digest="d"),
            logs=folder / "logs",
            threads=2,
            reporter=self.told.append,
        )

    def tool(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(TOOL.format(python=sys.executable, calls=str(self.folder / "calls"), body=body))
        path.chmod(0o755)
        known = self.making.binary.tools if self.making.binary is not None else {"llama-server": "/none"}
        binary = Binary(tools={**known, name: str(path)}, commit="abc")
        self.making = Making(
            store=self.making.store,
            env=self.making.env,
            logs=self.making.logs,
            threads=2,
            reporter=self.told.append,
            binary=binary,
        )

    def quantizer(self, types: dict[str, str] | str) -> None:
        made = model_file(self.folder / "made.gguf", types)
        self.tool("llama-quantize", COPY.format(made=str(made)))

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def planned(bench: Bench, fmt: str = "q4_k_m") -> dict[str, str]:
    return {a.tensor.name: a.type for a in make.planned_types(bench.source, fmt, imatrix=False)}


def test_the_tool_makes_what_was_planned_and_is_asked_once(bench: Bench) -> None:
    bench.quantizer(planned(bench))
    made = tools.quantize_gguf(bench.making, bench.source, "q4_k_m", name="small")
    assert made.path.name == "small-q4_k_m.gguf"
    assert made.manifest["tool"] == "llama-quantize abc"
    assert made.manifest["notes"] == []
    assert not made.reused
    assert tools.quantize_gguf(bench.making, bench.source, "q4_k_m", name="small").reused
    (call,) = bench.calls()
    assert call.split()[0] == str(bench.source)
    assert call.split()[-2:] == ["Q4_K_M", "2"]
    assert [(e.done, e.total, e.unit) for e in bench.told if e.kind == "progress"] == [
        (1, 2, "tensors"),
        (2, 2, "tensors"),
    ]


def test_another_build_makes_its_own(bench: Bench) -> None:
    bench.quantizer(planned(bench))
    first = tools.quantize_gguf(bench.making, bench.source, "q4_k_m", name="small")
    bench.quantizer(planned(bench))
    (bench.folder / "llama-quantize").write_text((bench.folder / "llama-quantize").read_text() + "# newer\n")
    assert tools.quantize_gguf(bench.making, bench.source, "q4_k_m", name="small").key != first.key


@pytest.mark.parametrize("what", ["f16", "junk", "nothing"])
def test_what_was_not_asked_for_is_not_published(bench: Bench, what: str) -> None:
    if what == "f16":
        bench.quantizer("f16")
    else:
        bench.tool("llama-quantize", "open(sys.argv[-3], 'wb').write(b'junk')" if what == "junk" else "pass")
    with pytest.raises(AdvisorError) as e:
        tools.quantize_gguf(bench.making, bench.source, "q4_k_m", name="small")
    assert e.value.code == "artifact-invalid"
    assert not list((bench.folder / "store").rglob("*.gguf"))


def test_a_failure_is_named_from_the_tools_own_words(bench: Bench) -> None:
    bench.tool("llama-quantize", REFUSES)
    with pytest.raises(AdvisorError) as e:
        tools.quantize_gguf(bench.making, bench.source, "q4_k_m", name="small")
    assert e.value.code == "quantizer-failed"
    assert any("already-quantized" in line for line in e.value.context)
    with pytest.raises(AdvisorError) as e:
        tools.quantize_gguf(bench.making, bench.source, "f16", name="small")
    assert e.value.code == "bad-option"


def test_an_importance_matrix_is_measured_on_the_16_bit_file(bench: Bench, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("words")
    bench.tool("llama-imatrix", IMATRIX.format(raw=b"GGUFmatrix"))
    made = tools.make_imatrix(bench.making, bench.source, text, chunks=2)
    assert made.path.read_bytes() == b"GGUFmatrix"
    assert [(e.done, e.total, e.unit) for e in bench.told if e.kind == "progress"] == [(2, 2, "chunks")]
    bench.tool("llama-imatrix", IMATRIX.format(raw=b"old format"))
    with pytest.raises(AdvisorError) as e:
        tools.make_imatrix(bench.making, bench.source, text, chunks=3)
    assert e.value.code == "artifact-invalid"


def test_the_chain_takes_the_tools_where_there_are_some(bench: Bench, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("words")
    bench.quantizer(planned(bench))
    bench.tool("llama-imatrix", IMATRIX.format(raw=b"GGUFmatrix"))
    done = make_gguf(bench.making, resolve(str(bench.source)), "q4_k_m", imatrix=True, text=text)
    assert done.artifact.manifest["imatrix"]
    first, second = bench.calls()
    assert "--chunks" in first
    assert second.startswith("--imatrix ")
    assert done.reference == bench.source


def test_tools_that_are_not_there_are_said_to_be_missing(bench: Bench) -> None:
    assert not tools.has(bench.making, tools.QUANTIZE)
    with pytest.raises(AdvisorError) as e:
        tools.quantize_gguf(bench.making, bench.source, "q4_k_m", name="small")
    assert e.value.code == "tool-missing"


def test_the_dry_load_is_read_by_device(bench: Bench, tmp_path: Path) -> None:
    settings, log = Settings(context=4096, gpu_layers=10), tmp_path / "fit.log"
    assert fit.ask(Binary(tools={}), bench.source, settings, log=log) is None
    bench.tool("llama-fit-params", "print('CUDA0 4096 512 300'); print('Host 256 180 98')")
    assert bench.making.binary is not None
    needs = fit.ask(bench.making.binary, bench.source, settings, log=log)
    assert needs is not None
    assert [tuple(n) for n in needs] == [("CUDA0", 4096, 512, 300), ("Host", 256, 180, 98)]
    bench.tool("llama-fit-params", "sys.exit('failed to fit')")
    assert bench.making.binary is not None
    assert fit.ask(bench.making.binary, bench.source, settings, log=log) is None
