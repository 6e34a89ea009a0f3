"""The command line that serves a GGUF file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from advisor.backends.base import ServeRequest
from advisor.backends.registry import runtime
from advisor.facts.plan import Settings
from advisor.facts.words import KV_TYPES
from tests.unit.backends.support import runner

LLAMA = runtime("llama.cpp")
SERVE = runner("serve_llama")


def test_the_command_is_an_argument_list() -> None:
    command = LLAMA.serve(
        ServeRequest(
            settings=Settings(context=8192, parallel=2, kv_type="q8_0", threads=6, batch=1024, ubatch=256),
            model_path="/models/my model.gguf",
            model_name="my-model",
            host="127.0.0.1",
            port=8080,
            python="/envs/llama.cpp/bin/python",
            runner="/lib/runners/serve_llama.py",
            api_key_file="/state/key",
        )
    )
    assert command.argv == (
        "/envs/llama.cpp/bin/python", "-I", "-X", "utf8", "/lib/runners/serve_llama.py",
        "--model", "/models/my model.gguf", "--alias", "my-model",
        "--host", "127.0.0.1", "--port", "8080",
        "--context", "8192", "--parallel", "2",
        "--batch", "1024", "--ubatch", "256",
        "--kv-type", "q8_0", "--gpu-layers", "0",
        "--load-mode", "mmap",
        "--threads", "6", "--threads-batch", "6",
        "--api-key-file", "/state/key",
        "--metrics",
    )  # fmt: skip
    assert command.env == {"GGML_NO_BACKTRACE": "1", "PYTHONUNBUFFERED": "1"}


@given(
    context=st.integers(256, 1 << 20),
    parallel=st.integers(1, 64),
    kv=st.sampled_from(KV_TYPES),
    layers=st.integers(0, 200),
    threads=st.none() | st.integers(1, 256),
    split=st.none() | st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4).map(tuple),
    mode=st.none() | st.sampled_from(["mmap", "mlock", "none"]),
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(lambda s: s[0] != "-"),
)
def test_the_runner_reads_back_what_the_plan_says(
    context: int,
    parallel: int,
    kv: str,
    layers: int,
    threads: int | None,
    split: tuple[float, ...] | None,
    mode: str | None,
    name: str,
) -> None:
    plan = Settings(
        context=context,
        parallel=parallel,
        kv_type=kv,
        gpu_layers=layers,
        threads=threads,
        tensor_split=split,
        load_mode=mode,
    )
    command = LLAMA.serve(
        ServeRequest(
            settings=plan,
            model_path=f"/m/{name}.gguf",
            model_name=name,
            host="::1",
            port=9,
            python="python",
            runner="serve.py",
        )
    )
    a = SERVE.arguments(list(command.argv[command.argv.index("serve.py") + 1 :]))
    assert (a.model, a.alias, a.host, a.port) == (f"/m/{name}.gguf", name, "::1", 9)
    assert (a.context, a.parallel, a.kv_type, a.gpu_layers) == (context, parallel, kv, layers)
    assert (a.threads, a.threads_batch) == (threads, threads)
    assert (a.batch, a.ubatch) == (2048, 512)
    assert a.load_mode == (mode or "auto")
    assert (a.tensor_split is None) == (split is None)
    assert a.api_key_file is None
    assert a.cache_ram_mib == a.checkpoints == 0


def test_ready_is_the_health_answer_of_a_loaded_model() -> None:
    assert LLAMA.health_path == "/health"
    assert LLAMA.ready(200, b'{"status":"ok"}')
    assert not LLAMA.ready(503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')
    assert not LLAMA.ready(200, b'{"status":"loading model"}')
    assert not LLAMA.ready(200, b"<html>")
    assert not LLAMA.ready(200, b"[]")


def test_a_free_port_is_free_and_a_taken_one_is_named() -> None:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        assert "in use" in SERVE.port_is_free("127.0.0.1", port).lower()
    assert SERVE.port_is_free("127.0.0.1", port) is None
