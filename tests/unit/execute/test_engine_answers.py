"""Answers of engines: asked once, kept by model, format, settings and build, and read back by everybody."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor import settings as settings_
from advisor.backends.llama.binary import SERVER, Binary
from advisor.cost.llama_memory import memory
from advisor.errors import AdvisorError
from advisor.execute import engines as engines_
from advisor.execute.answers import FOLDER, Answers, Engine, Kept, model_key, question
from advisor.execute.engines import FitTool
from advisor.execute.llama.fit import TOOL
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Settings
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from tests.support import shapes

MIB = 1 << 20
MODEL = resolve("8B")
SAID = Kept(kv_cache_bytes=7 * MIB, state_bytes=0, compute_bytes=5 * MIB, output_bytes=3)
# Prints what a build for the CPU prints, cut to whole MiB, and notes that it was asked.
FIT = """#!{python} -I
import sys
with open({calls!r}, "a") as f:
    f.write(" ".join(sys.argv[1:]) + "\\n")
print({said!r})
"""


class Asked:
    """An engine that counts questions."""

    def __init__(self, answer: Kept | None = SAID) -> None:
        self.answer, self.times = answer, 0

    def __call__(self, model: ModelFacts, fmt: str, settings: Settings, /) -> Kept | None:
        self.times += 1
        return self.answer


def home(folder: Path) -> settings_.Settings:
    return settings_.load(env={"ADVISOR_HOME": str(folder / "home"), "PATH": ""})


def test_asked_once_and_known_afterwards(tmp_path: Path) -> None:
    engine, settings, s = Asked(), Settings(context=4096), home(tmp_path)
    silent = Answers(s, lambda: [Engine("a", engine)])
    assert silent(MODEL, "q4_k_m", settings) is None
    asking = Answers(s, lambda: [Engine("a", engine)], may_ask=True)
    assert asking(MODEL, "q4_k_m", settings) == asking(MODEL, "q4_k_m", settings) == SAID
    assert engine.times == 1
    # Another process, which may not ask, and the same facts read anew.
    again = Answers(s, lambda: [Engine("a", engine)])
    assert again(resolve("8B"), "q4_k_m", settings) == SAID
    for other in (
        ("q8_0", settings),
        ("q4_k_m", Settings(context=8192)),
        ("q4_k_m", Settings(context=4096, kv_type="q8_0")),
        ("q4_k_m", Settings(context=4096, parallel=2)),
    ):
        assert again(MODEL, *other) is None
    assert again(resolve("70B"), "q4_k_m", settings) is None
    assert engine.times == 1


def test_another_build_is_asked_anew(tmp_path: Path) -> None:
    old, new, s = Asked(), Asked(msgspec.structs.replace(SAID, compute_bytes=1)), home(tmp_path)
    settings = Settings(context=4096)
    Answers(s, lambda: [Engine("old", old)], may_ask=True)(MODEL, "f16", settings)
    assert Answers(s, lambda: [Engine("new", new)])(MODEL, "f16", settings) is None
    found = Answers(s, lambda: [Engine("new", new)], may_ask=True)(MODEL, "f16", settings)
    assert found is not None and found.compute_bytes == 1
    assert (old.times, new.times) == (1, 1)


def test_the_next_is_asked_where_one_does_not_know_the_model(tmp_path: Path) -> None:
    first, second = Asked(None), Asked()
    answers = Answers(home(tmp_path), lambda: [Engine("a", first), Engine("b", second)], may_ask=True)
    assert answers(MODEL, "f16", Settings(context=512)) == SAID
    assert (first.times, second.times) == (1, 1)
    assert (
        Answers(home(tmp_path), lambda: [Engine("a", first)], may_ask=True)(MODEL, "q8_0", Settings(context=512))
        is None
    )


def test_a_broken_engine_is_passed_over_and_told_where_nobody_else_says(tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise AdvisorError("env-failed", "The library is not the pinned build.")

    both = Answers(home(tmp_path), lambda: [Engine("a", broken), Engine("b", Asked())], may_ask=True)
    assert both(MODEL, "f16", Settings(context=512)) == SAID
    alone = Answers(home(tmp_path), lambda: [Engine("a", broken), Engine("b", Asked(None))], may_ask=True)
    with pytest.raises(AdvisorError, match="not the pinned build"):
        alone(MODEL, "q8_0", Settings(context=512))


def test_finding_engines_costs_nothing_where_nothing_was_said(tmp_path: Path) -> None:
    def never() -> list[Engine]:
        raise AssertionError("looked for engines")

    assert Answers(home(tmp_path), never)(MODEL, "f16", Settings(context=512)) is None


@pytest.mark.parametrize("damage", [b"", b"{", b'{"answers": 3}', b'{"schema": "x", "more": 1}', b"\xff\xfe", None])
def test_a_damaged_file_is_asked_anew(tmp_path: Path, damage: bytes | None) -> None:
    engine, s, settings = Asked(), home(tmp_path), Settings(context=512)
    Answers(s, lambda: [Engine("a", engine)], may_ask=True)(MODEL, "f16", settings)
    (path,) = (Path(s.paths.cache) / FOLDER).rglob("*.json")
    if damage is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(damage)
    assert Answers(s, lambda: [Engine("a", engine)])(MODEL, "f16", settings) is None
    assert Answers(s, lambda: [Engine("a", engine)], may_ask=True)(MODEL, "f16", settings) == SAID
    assert engine.times == 2


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    assert (
        Answers(home(tmp_path), lambda: [Engine("a", Asked())], may_ask=True)(MODEL, "f16", Settings(context=512))
        == SAID
    )


def test_answers_of_two_processes_stand_side_by_side(tmp_path: Path) -> None:
    s = home(tmp_path)
    one, two = (Answers(s, lambda: [Engine("a", Asked())], may_ask=True) for _ in range(2))
    one(MODEL, "f16", Settings(context=512))
    two(MODEL, "q8_0", Settings(context=512))
    one(MODEL, "q6_k", Settings(context=512))
    known = Answers(s, lambda: [Engine("a", Asked())])
    assert [known(MODEL, fmt, Settings(context=512)) for fmt in ("f16", "q8_0", "q6_k")] == [SAID] * 3


@given(
    widths=st.tuples(st.integers(1, 64), st.integers(1, 8)), name=st.text(max_size=20), context=st.integers(1, 1 << 20)
)
def test_names_follow_what_decides_memory(widths: tuple[int, int], name: str, context: int) -> None:
    heads, layers = widths
    model = shapes.facts(shapes.KNOWN["smollm2-135m"]._replace(heads=heads, layers=layers))
    assert model_key(model) == model_key(msgspec.structs.replace(model, name=name, ref=name, notes=(name,)))
    assert model_key(model) != model_key(msgspec.structs.replace(model, heads=heads + 1))
    assert model_key(model) != model_key(msgspec.structs.replace(model, layer_kinds=("full",) * layers))
    one = Settings(context=context)
    assert question("f16", one) == question("f16", msgspec.structs.replace(one, gpu_layers=9, load_mode="none"))
    assert question("f16", one) != question("f16", msgspec.structs.replace(one, context=context + 1))


def test_a_plain_estimate_uses_what_was_said(tmp_path: Path) -> None:
    s, settings = home(tmp_path), Settings(context=4096)
    Answers(s, lambda: [Engine("a", Asked())], may_ask=True)(MODEL, "q4_k_m", settings)
    known = Answers(s, lambda: [Engine("a", Asked())])

    def at(context: int) -> str:
        q = memory(
            MODEL, tensors(MODEL), fmt="q4_k_m", settings=Settings(context=context), machine=shapes.machine(),
            devices=("host",), engine=known,
        )  # fmt: skip
        return q.kv_cache.method

    assert (at(4096), at(8192)) == ("engine", "exact")


# -- the tool of a program -------------------------------------------------------------------------------------------


def tool(folder: Path, said: str, *, number: int = 10434) -> Binary:
    path = folder / TOOL
    path.write_text(FIT.format(python=sys.executable, calls=str(folder / "calls"), said=said))
    path.chmod(0o755)
    return Binary(tools={SERVER: str(folder / SERVER), TOOL: str(path)}, number=number)


def formula(settings: Settings) -> tuple[int, int]:
    q = memory(
        MODEL, tensors(MODEL), fmt="q8_0", settings=settings, machine=shapes.machine(), devices=("host",)
    )  # fmt: skip
    return int(q.kv_cache.value), int(q.compute.value)


def test_the_tool_bounds_the_formula(tmp_path: Path) -> None:
    settings = Settings(context=4096, gpu_layers=5)
    kv, work = formula(settings)
    rows = 4 * MODEL.vocab * 511
    exact = FitTool(tool(tmp_path, f"Host 8000 {kv // MIB} {(work + rows) // MIB}"), tmp_path / "log")
    found = exact(MODEL, "q8_0", settings)
    assert found is not None
    assert found.kv_cache_bytes == kv
    assert abs(found.compute_bytes - work) <= MIB
    asked = (tmp_path / "calls").read_text()
    assert " -ngl 0 " in asked and "dry.gguf" in asked
    less = FitTool(tool(tmp_path, f"Host 8000 {kv // MIB} 10"), tmp_path / "log")(MODEL, "q8_0", settings)
    assert less is not None and less.compute_bytes == 11 * MIB
    more = FitTool(tool(tmp_path, f"Host 8000 {kv // MIB + 9} 5000", number=9190), tmp_path / "log")
    got = more(MODEL, "q8_0", settings)
    assert got is not None and got.compute_bytes == 5000 * MIB and got.kv_cache_bytes == kv + 10 * MIB - kv % MIB


@pytest.mark.parametrize("said", ["", "failed", "CUDA0 1 2 3\nHost 1 2 3", "CUDA0 1 2 3"])
def test_a_tool_that_says_nothing_of_the_host_alone(tmp_path: Path, said: str) -> None:
    assert FitTool(tool(tmp_path, said), tmp_path / "log")(MODEL, "q8_0", Settings(context=512)) is None


def test_a_format_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdvisorError) as e:
        FitTool(tool(tmp_path, "Host 1 2 3"), tmp_path / "log")(MODEL, "w4a16-g64", Settings(context=512))
    assert e.value.code == "bad-option"


def test_nobody_is_installed(tmp_path: Path) -> None:
    assert engines_.engines(home(tmp_path)) == ()
    assert engines_.none_installed().code == "env-failed"
