"""vLLM's command line: what is run and what is shown, option for option."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.backends.base import ServeRequest
from advisor.backends.registry import runtime
from advisor.backends.vllm.options import by_hand, options, threading
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings
from advisor.facts.recipe import Recipe
from tests.unit.backends.support import runner

VLLM = runtime("vllm")
SERVE = runner("serve_vllm")
MIB = 1 << 20


def request(settings: Settings, **changes: object) -> ServeRequest:
    values: dict[str, object] = {
        "settings": settings,
        "model_path": "/models/my model",
        "model_name": "my-model",
        "host": "127.0.0.1",
        "port": 8080,
        "python": "/envs/vllm/bin/python",
        "runner": "/lib/runners/serve_vllm.py",
        "method": "rtn",
        "format": "w4a16-g64",
        "device": "cpu",
        "kv_cache_bytes": 512 * MIB,
    }
    return ServeRequest(**(values | changes))  # type: ignore[arg-type]


def test_on_a_cpu() -> None:
    command = VLLM.serve(request(Settings(context=8192, parallel=2, threads=6), api_key_file="/state/key"))
    assert command.argv == (
        "/envs/vllm/bin/python", "-I", "-X", "utf8", "/lib/runners/serve_vllm.py", "--api-key-file", "/state/key",
        "--",
        "--model", "/models/my model", "--served-model-name", "my-model", "--host", "127.0.0.1", "--port", "8080",
        "--max-model-len", "4096", "--max-num-seqs", "2",
        "--max-num-batched-tokens", "2048", "--enable-chunked-prefill",
        "--dtype", "bfloat16", "--kv-cache-dtype", "auto", "--kv-cache-memory-bytes", str(512 * MIB),
        "--tensor-parallel-size", "1", "--pipeline-parallel-size", "1",
        "--load-format", "safetensors", "--enforce-eager",
        "--generation-config", "auto", "--no-trust-remote-code",
        "--no-enable-log-requests", "--disable-uvicorn-access-log", "--disable-fastapi-docs",
        "--allowed-origins", '["http://localhost"]',
    )  # fmt: skip
    assert command.env == {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_LOGGING_LEVEL": "INFO",
        "PYTHONUNBUFFERED": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "6",
        "VLLM_CPU_ATTN_SPLIT_KV": "0",
    }


@pytest.mark.parametrize(("threads", "split"), [(1, "0"), (8, "0"), (9, None), (64, None)])
def test_many_threads_share_the_cache_of_one_request(threads: int, split: str | None) -> None:
    assert threading(Settings(context=4096, threads=threads)).get("VLLM_CPU_ATTN_SPLIT_KV") == split


def test_on_two_devices() -> None:
    settings = Settings(context=32768, parallel=8, threads=6, tensor_parallel=2, gpu_memory_utilization=0.85)
    command = VLLM.serve(
        request(settings, method="none", format="f16", device="nvidia", kv_cache_bytes=4096 * MIB, host="::1")
    )
    line = " ".join(command.argv)
    assert "--gpu-memory-utilization 0.85" in line and "--kv-cache-memory-bytes" not in line
    assert "--tensor-parallel-size 2 --pipeline-parallel-size 1 --distributed-executor-backend mp" in line
    assert "--dtype float16" in line and "--enforce-eager" not in line and "--max-model-len 4096" in line
    assert not {"OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"} & set(command.env)


def test_a_device_without_a_share_gets_the_bytes_of_the_plan() -> None:
    line = " ".join(VLLM.serve(request(Settings(context=4096), device="nvidia")).argv)
    assert f"--kv-cache-memory-bytes {512 * MIB} --gpu-memory-utilization 0.92" in line
    assert "--dtype auto" in line


def test_the_cache_of_a_cpu_is_never_left_to_vllm() -> None:
    with pytest.raises(AdvisorError) as e:
        VLLM.serve(request(Settings(context=4096), kv_cache_bytes=None))
    assert e.value.code == "bad-option"


def test_a_cache_type_of_llama_cpp_is_refused() -> None:
    with pytest.raises(AdvisorError) as e:
        VLLM.serve(request(Settings(context=4096, kv_type="q8_0")))
    assert e.value.code == "not-available" and e.value.data == {"kv_type": "q8_0"}


def test_nf4_made_before_and_at_load() -> None:
    made = VLLM.serve(request(Settings(context=4096), method="nf4", format="nf4")).argv
    assert made[made.index("--load-format") + 1] == "bitsandbytes" and "--quantization" not in made
    recipe = Recipe(method="nf4", format="nf4", quantizer="bitsandbytes", bits=4, at_load=True)
    loaded = VLLM.serve(request(Settings(context=4096), method="nf4", format="nf4", recipe=recipe)).argv
    assert loaded[loaded.index("--quantization") + 1] == "bitsandbytes"


@given(
    context=st.integers(1, 1 << 20),
    parallel=st.integers(1, 256),
    batch=st.integers(1, 1 << 16),
    kv=st.sampled_from(("f16", "bf16", "fp8", "fp8_e4m3", "fp8_e5m2")),
    tensor=st.integers(1, 8),
    pipeline=st.integers(1, 4),
    share=st.none() | st.floats(0.1, 0.99),
    device=st.sampled_from(("cpu", "nvidia", "amd")),
    method=st.sampled_from(("none", "awq", "w8a8", "nf4")),
)
def test_what_is_shown_is_what_is_run(
    context: int,
    parallel: int,
    batch: int,
    kv: str,
    tensor: int,
    pipeline: int,
    share: float | None,
    device: str,
    method: str,
) -> None:
    settings = Settings(
        context=context,
        parallel=parallel,
        batch=batch,
        kv_type=kv,
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        gpu_memory_utilization=share,
    )
    run = VLLM.serve(request(settings, device=device, method=method, model_path="/m")).argv
    own = run[run.index("--") + 1 :]
    assert own[:4] == ("--model", "/m", "--served-model-name", "my-model")
    shown = by_hand(
        settings,
        device,
        options(
            settings,
            model="/m",
            name=None,
            host="127.0.0.1",
            port=8080,
            method=method,
            fmt="w4a16-g64",
            device=device,
            kv_cache_bytes=512 * MIB,
        ),
    )
    assert shown[-len(own[4:]) :] == own[4:]
    assert own.count("--max-num-batched-tokens") == 1
    assert int(own[own.index("--max-num-batched-tokens") + 1]) >= parallel
    assert int(own[own.index("--max-model-len") + 1]) * parallel <= max(context, parallel)
    assert {"--no-trust-remote-code", "--no-enable-log-requests"} <= set(own)
    assert ("--gpu-memory-utilization" in own) == (device != "cpu")
    assert ("--kv-cache-memory-bytes" in own) == (device == "cpu" or share is None)
    place = SERVE.place(list(own))
    assert (place.model, place.host, place.port) == ("/m", "127.0.0.1", 8080)
    assert SERVE.arguments([*run[5:]]) == (None, list(own))


def test_ready_is_the_answer_of_the_health_path() -> None:
    assert VLLM.health_path == "/health"
    assert VLLM.ready(200, b"") and not VLLM.ready(503, b"")
