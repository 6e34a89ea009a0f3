"""Hostile and damaged models through the command line: each is refused with its code, and nothing is written."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.cli.main import main
from advisor.errors import AdvisorError
from advisor.model import gguf, safetensors
from tests.support import gguf_writer as w
from tests.support.safetensors_writer import write_safetensors

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "models"
CONFIG = json.loads((FIXTURES / "llama-1b-config" / "config.json").read_text())
Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run one command line with ``--json``: its exit code and its document."""

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        code = main(["recommend", "--json", *words])
        told = capfd.readouterr()
        assert "Traceback" not in told.err
        return code, json.loads(told.out)

    return call


def refused(ask: Ask, path: Path, code: str, exit_code: int = 7) -> dict[str, Any]:
    found, document = ask("--", str(path))
    error: dict[str, Any] = document["error"]
    assert (found, error["code"]) == (exit_code, code), error
    assert document["data"] is None
    assert not any(c in error["message"] for c in "\x1b\n\u202e")
    assert len(error["message"]) < 1000
    return error


def folder(tmp_path: Path, **changes: Any) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return made


# ------------------------------------------------------------------------------- headers


def head(tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


HEADERS = {
    "array": head(keys=1) + w.string("a") + struct.pack("<IIQ", w.ARRAY, w.U32, 2**63),
    "keys": head(keys=2**63),
    "tensors": head(tensors=2**63),
    "string": head(keys=1) + struct.pack("<Q", 2**63),
    "nothing": b"",
    "noise": os.urandom(49),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_gguf_header(ask: Ask, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(HEADERS[kind].ljust(49, b"\0") if HEADERS[kind] else b"")
    error = refused(ask, path, "untrusted-model-header")
    assert "byte" in error["message"]


@pytest.mark.parametrize("length", [2**63, 99 << 20, 10])
def test_a_hostile_safetensors_header(ask: Ask, tmp_path: Path, length: int) -> None:
    path = folder(tmp_path) / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a":NaN}')
    refused(ask, path.parent, "untrusted-model-header")


def reader(path: Path) -> Callable[[], object]:
    return lambda: (gguf if path.suffix == ".gguf" else safetensors).read_header(path)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["m.gguf", "m.safetensors"])
def test_a_header_cut_at_every_byte_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "m.gguf":
        meta = {"general.architecture": "llama", "n": 1, "heads": [4, 8], "words": ["a", "bc"], "x": 1.5, "yes": True}
        raw, body = w.header(meta, [("a.weight", (4, 64), "q8_0"), ("b.weight", (32,), "f32")])
        whole, end = raw + b"\0" * body, len(raw)
    else:
        whole = write_safetensors(path, {"a": ("BF16", (2, 3)), "b": ("F32", (4,))}).read_bytes()
        end = 8 + struct.unpack("<Q", whole[:8])[0]
    path.write_bytes(whole)
    reader(path)()
    for cut in range(end + 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(AdvisorError) as e:
            reader(path)()
        assert e.value.code == "untrusted-model-header", cut


def test_a_million_tensors_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    entry = b'"%d":{"dtype":"U8","shape":[],"data_offsets":[0,0]}'
    raw = b"{" + b",".join(entry % i for i in range(1_000_000)) + b"}"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    with pytest.raises(AdvisorError) as e:
        safetensors.read_header(path)
    assert e.value.code == "untrusted-model-header"
    assert "more than" in e.value.message


# ------------------------------------------------------------------------- configurations


@pytest.mark.parametrize("value", [10**9, -1, 0, "32", None, 32.5, [32], {"a": 1}, True])
def test_a_layer_count_that_cannot_be(ask: Ask, tmp_path: Path, value: object) -> None:
    error = refused(ask, folder(tmp_path, num_hidden_layers=value), "untrusted-model-config")
    assert "num_hidden_layers" in error["message"]
    assert error["data"]["field"] == "num_hidden_layers"


def test_a_configuration_too_large_or_too_deep(ask: Ask, tmp_path: Path) -> None:
    made = folder(tmp_path)
    (made / "config.json").write_text('{"a":' * 10_000)
    refused(ask, made, "untrusted-model-config")
    with (made / "config.json").open("wb") as f:
        f.truncate(1 << 30)
    assert "4194304" in refused(ask, made, "untrusted-model-config")["message"]


def test_an_unknown_architecture_is_planned_with_low_confidence_and_says_so(
    ask: Ask, capfd: pytest.CaptureFixture[str]
) -> None:
    code, document = ask("--", str(FIXTURES / "unknown-arch"))
    assert code == 0
    assert document["data"]["model"]["confidence"] == "low"
    assert "low-confidence" in [warning["code"] for warning in document["warnings"]]
    assert all(any("architecture" in warning for warning in p["warnings"]) for p in document["data"]["plans"])
    capfd.readouterr()
    main(["recommend", str(FIXTURES / "unknown-arch")])
    told = capfd.readouterr()
    assert "not known in detail" in told.out + told.err


# ---------------------------------------------------------------------- paths, code, pickles


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "CON", "a:b", "a\nb", "W.safetensors"])
def test_listed_files_that_lead_elsewhere(ask: Ask, tmp_path: Path, name: str) -> None:
    made = folder(tmp_path)
    listed = {"a": name, "b": "w.safetensors"}
    (made / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    refused(ask, made, "untrusted-model-path")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "advisor home") == ["model"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_out_of_the_folder(ask: Ask, tmp_path: Path) -> None:
    made = folder(tmp_path)
    # A whole file, so that nothing but where it lies is at fault.
    elsewhere = write_safetensors(tmp_path / "elsewhere", {"model.embed_tokens.weight": ("BF16", (8, 8))})
    link = made / "model.safetensors"
    link.symlink_to(elsewhere)
    error = refused(ask, made, "untrusted-model-path")
    assert error["data"]["file"] == "model.safetensors"
    assert "link out of the folder" in error["message"]
    assert str(elsewhere) not in json.dumps(error)
    link.unlink()
    elsewhere.rename(made / "inside")
    link.symlink_to(made / "inside")
    code, _ = ask("--", str(made))
    assert code == 0, "a link within the folder is one of its files"


def test_code_of_its_own_is_refused_and_never_read(ask: Ask, tmp_path: Path) -> None:
    error = refused(ask, FIXTURES / "remote-code", "remote-code-refused")
    assert error["data"]["files"] == ["configuration_banana.py", "modeling_banana.py"]
    made = folder(tmp_path, auto_map={"AutoModel": "evil.Model"})
    (made / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "evil.py" in refused(ask, made, "remote-code-refused")["message"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "m.ckpt", "m.pkl", "m.pth"])
def test_pickles_are_refused_and_never_loaded(ask: Ask, tmp_path: Path, name: str) -> None:
    made = folder(tmp_path)
    ran = tmp_path / "ran"
    (made / name).write_bytes(b"cos\nsystem\n(S'touch " + str(ran).encode() + b"'\ntR.")
    error = refused(ask, made, "pickle-refused")
    assert "safetensors" in error["hint"] or "safetensors" in " ".join([error["message"], *error["context"]])
    assert not ran.exists()


# ----------------------------------------------------------------------------------- names

NAMES = ["; rm -rf ~", "--help", "$(id)", "a\nb", "\x1b[31mred", "right\u202eleft", "x" * 10_000, "-", "--", "\udcff"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_nothing_is_not_found_and_shown_plainly(ask: Ask, name: str) -> None:
    code, document = ask("--", name)
    assert (code, document["error"]["code"]) in ((4, "model-not-found"), (4, "file-not-found"))
    assert len(document["error"]["message"]) < 600
    said = json.dumps(document, ensure_ascii=False)
    assert not any(c in said for c in "\x1b\u202e")


def test_texts_inside_a_model_cannot_drive_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    evil = "name\x1b]0;title\x07\x1b[2J\x9b31m\u202e"
    w.llama_like(path, name=evil, types="q8_0", extra={"general.license": evil, "general.basename": evil})
    for words in (["recommend", str(path)], ["models", "show", str(path)], ["recommend", str(path), "--json"]):
        assert main(words) == 0
        told = capfd.readouterr()
        shown = told.out + told.err
        assert "name" in shown
        assert not any(c in shown for c in "\x1b\x07\x9b\u202e")
        assert "\\u001b" not in shown
