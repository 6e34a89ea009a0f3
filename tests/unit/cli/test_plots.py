"""Pictures: well-formed and harmless whatever a model is called, readable without colour, written whole or not."""

from __future__ import annotations

import struct
import sys
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cli.views import pictures
from advisor.cli.views.plotting import png, terminal
from advisor.cli.views.plotting.chart import Axis, context_axis, log_axis, memory_axis
from advisor.cli.views.plotting.svg import svg
from advisor.planner.curves import Choice
from tests.support import samples, suggestions

from .conftest import Outcome

Advise = Callable[..., Outcome]
NS = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert('x')</script> & \"q\" \x1b[31m\x00 \ufffe \ud800"
CHOSEN = Choice("gguf", "q4_k_m", "llama.cpp")


def texts(document: str, tag: str = "text") -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(document).iter(NS + tag)]


def test_plans_are_drawn_with_the_chosen_one_marked() -> None:
    report = samples.sample_recommendation()
    document = svg([pictures.plans(report)])
    assert any("q4_k_m" in text for text in texts(document))
    told = [text for text in texts(document, "title") if "(chosen)" in text]
    assert len(told) == 1
    assert "q4_k_m in llama.cpp" in told[0]
    assert any(text.startswith("Larger marks take more memory") and "Room:" in text for text in texts(document))
    assert "decode, tokens/s" in " ".join(texts(document))
    assert "chosen" in texts(document)


def test_plans_without_numbers_are_counted_and_not_drawn() -> None:
    plan = samples.sample_plan()
    silent = msgspec.structs.replace(plan, speed=msgspec.structs.replace(plan.speed, decode=None), id="p-0000bb")
    chart = pictures.plans(samples.sample_recommendation(plans=(plan, silent)))
    assert len(chart.marks) == 1
    assert any("not known: 1" in note for note in chart.notes)
    nothing = pictures.plans(samples.sample_recommendation(plans=(silent,)))
    ElementTree.fromstring(svg([nothing]))
    assert terminal.lines(nothing, 80)


def test_memory_has_limits_and_what_is_beyond_them_is_faint() -> None:
    chart = pictures.memory(suggestions.sample_curves(), CHOSEN)
    document = svg([chart])
    assert "host memory: 10.0 GiB" in texts(document)
    assert [line.strong for line in chart.lines] == [True, False]
    beyond = [t for t in texts(document, "title") if "beyond the limit" in t]
    assert beyond == ["q8_0, beyond the limit"]
    assert "4k: 4.25 GiB" in texts(document)
    assert "memory while serving, GiB" in texts(document)
    assert "context, tokens" in texts(document)


def test_lines_differ_without_colour() -> None:
    tree = ElementTree.fromstring(svg([pictures.memory(suggestions.sample_curves(), CHOSEN)]))
    dashes = {line.get("stroke"): line.get("stroke-dasharray") for line in tree.iter(NS + "polyline")}
    assert len(set(dashes.values())) == len(dashes) == 2


@pytest.mark.filterwarnings("error")
def test_foreign_text_stays_text() -> None:
    report = samples.sample_recommendation(model=samples.sample_model(name=HOSTILE))
    document = svg([pictures.plans(report)])
    tree = ElementTree.fromstring(document.encode())
    assert not list(tree.iter(NS + "script"))
    assert "<script>alert('x')</script>" in (tree.findtext(NS + "title") or "")
    assert "\x1b" not in document


@given(st.text(max_size=60))
def test_any_name_gives_a_document(name: str) -> None:
    curves = suggestions.sample_curves()._replace(model=name)
    tree = ElementTree.fromstring(svg([pictures.memory(curves, CHOSEN)]).encode())
    assert tree.tag == NS + "svg"


def test_it_tells_what_it_is_without_being_seen() -> None:
    tree = ElementTree.fromstring(svg([pictures.memory(suggestions.sample_curves(), CHOSEN)]))
    assert tree.get("role") == "img"
    ids = {node.get("id") for node in (*tree.iter(NS + "title"), *tree.iter(NS + "desc"))}
    assert set((tree.get("aria-labelledby") or "").split()) <= ids
    assert "room for 10.0 GiB" in (tree.findtext(NS + "desc") or "")
    background = next(tree.iter(NS + "rect"))
    assert (background.get("width"), background.get("fill")) == ("100%", "#ffffff")


def test_in_a_terminal_letters_stand_for_curves() -> None:
    drawn = terminal.lines(pictures.memory(suggestions.sample_curves(), CHOSEN), 80)
    assert max(map(len, drawn)) <= 80
    grid = [line.partition("|")[2] for line in drawn if "|" in line]
    whole = "".join(grid)
    assert {"A", "B", "b", "=", "@"} <= set(whole)
    assert "a" not in whole.partition("+")[0]  # never beyond the limit
    assert "  A  q4_k_m (the one asked for)" in drawn
    assert "  =  host memory: 10.0 GiB" in drawn


@pytest.mark.parametrize("width", [20, 40, 79, 200])
def test_terminals_of_any_width(width: int) -> None:
    for chart in (
        pictures.memory(suggestions.sample_curves()),
        pictures.plans(samples.sample_recommendation()),
    ):
        drawn = terminal.lines(chart, width)
        assert max(map(len, drawn)) <= width
        assert (len(drawn) > 20) == (width >= 40)


@given(st.lists(st.floats(min_value=1e-6, max_value=1e9), max_size=6), st.booleans())
def test_log_axes_hold_their_values(values: list[float], flipped: bool) -> None:
    axis = log_axis("x", values, flipped=flipped)
    assert len(axis.ticks) >= 2
    assert all(0 <= axis.share(v) <= 1 for v in values)
    ordered = [axis.share(v) for v in sorted(values)]
    assert ordered == sorted(ordered, reverse=flipped)


@given(st.floats(min_value=1, max_value=1e14))
def test_memory_axes_have_round_ticks_and_a_unit(most: float) -> None:
    axis = memory_axis("memory", most)
    assert axis.label.rpartition(", ")[2] in ("MiB", "GiB", "TiB")
    assert 3 <= len(axis.ticks) <= 12
    assert axis.high >= most


def test_contexts_are_powers_of_two() -> None:
    axis = context_axis([1024, 40960])
    assert [word for _, word in axis.ticks] == ["1k", "2k", "4k", "8k", "16k", "32k"]
    assert context_axis([]).low < context_axis([]).high
    assert Axis("x", 1.0, 1.0, ()).share(1.0) == 0.5


# ------------------------------------------------------------------------------------ files


def test_a_file_is_written_and_replaced_as_it_is_our_own(advise: Advise, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "plans.svg"
    for _ in range(2):
        done = advise("recommend", "8B", "--plot", str(path))
        assert done.code == 0, done.err
        assert f"drawn: {path}" in done.err
    assert texts(path.read_text())
    assert sorted(p.name for p in path.parent.iterdir()) == ["plans.svg"]


@pytest.mark.parametrize("line", ["estimate 8B", "compare 8B", "recommend 8B"])
def test_every_picture_goes_into_a_file_and_the_document_stays_whole(advise: Advise, tmp_path: Path, line: str) -> None:
    path = tmp_path / "plot.svg"
    done = advise(*line.split(), "--plot", str(path), "--json")
    assert done.code == 0, done.err
    assert msgspec.json.decode(done.out)["data"]
    ElementTree.fromstring(path.read_text())


@pytest.mark.parametrize("line", ["estimate 8B", "compare 8B", "recommend 8B"])
def test_every_picture_is_drawn_here(advise: Advise, line: str) -> None:
    done = advise(*line.split(), "--plot", "-")
    assert done.code == 0, done.err
    assert " |" in done.out
    assert "+----" in done.out


def test_what_advisor_did_not_draw_is_not_overwritten(advise: Advise, tmp_path: Path) -> None:
    logo = tmp_path / "logo.svg"
    logo.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    done = advise("recommend", "8B", "--plot", str(logo))
    assert done.code == 2
    assert "Overwrite it?" in done.err
    assert logo.read_text().startswith("<svg xmlns='")
    assert advise("recommend", "8B", "--plot", str(logo), "--yes").code == 0
    assert "drawn by advisor" in logo.read_text()


def test_a_folder_is_no_file(advise: Advise, tmp_path: Path) -> None:
    (tmp_path / "plot.svg").mkdir()
    assert advise("recommend", "8B", "--plot", str(tmp_path / "plot.svg")).code == 5


@pytest.mark.parametrize("name", ["plot.pdf", "plot", "plot.svg.txt"])
def test_other_kinds_of_files_are_refused(advise: Advise, tmp_path: Path, name: str) -> None:
    done = advise("recommend", "8B", "--plot", str(tmp_path / name))
    assert done.code == 2
    assert ".svg and .png" in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["--json", "--quiet"])
def test_the_terminal_is_for_people(advise: Advise, mode: str) -> None:
    assert advise("recommend", "8B", "--plot", "-", mode).code == 2


def test_without_a_model_there_is_nothing_to_draw(advise: Advise, tmp_path: Path) -> None:
    for words in (("--plot", str(tmp_path / "a.svg")), ("--pareto",), ("--preview",)):
        done = advise("recommend", *words)
        assert done.code == 2
        assert "hint: advisor recommend 8B" in done.err
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------ PNG


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


BARE = png.SIGNATURE + chunk(b"IHDR", bytes(13)) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_png_is_made_where_it_can_be_and_knows_its_own(
    advise: Advise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[bytes] = []

    def svg2png(*, bytestring: bytes, scale: float) -> bytes:
        drawn.append(bytestring)
        return BARE

    library = types.ModuleType("cairosvg")
    library.__dict__["svg2png"] = svg2png
    monkeypatch.setitem(sys.modules, "cairosvg", library)
    path = tmp_path / "plans.png"
    for _ in range(2):  # the second time it is our own
        assert advise("recommend", "8B", "--plot", str(path)).code == 0
    ElementTree.fromstring(drawn[0])
    raw = path.read_bytes()
    assert raw.startswith(png.SIGNATURE)
    assert chunk(b"tEXt", png.MARK) in raw
    assert raw.endswith(chunk(b"IEND", b""))


def test_png_without_the_library_says_how_to_get_it(
    advise: Advise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    done = advise("recommend", "8B", "--plot", str(tmp_path / "plans.png"))
    assert done.code == 5
    assert "hint: python -m pip install cairosvg" in done.err
    assert not list(tmp_path.iterdir())
