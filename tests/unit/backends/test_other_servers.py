"""Servers that advisor plans with but does not install: their command lines, and Ollama's requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.backends import ollama
from advisor.backends.base import ServeRequest
from advisor.backends.registry import runtime
from advisor.backends.runtimes import lmstudio
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings

SHA = "ab" * 32


def request(settings: Settings, **changes: object) -> ServeRequest:
    values: dict[str, object] = {
        "settings": settings,
        "model_path": "/models/m-gptq",
        "model_name": "m",
        "host": "127.0.0.1",
        "port": 8080,
        "python": "/env/bin/python",
        "method": "gptq",
        "format": "w4a16-g128",
        "device": "nvidia",
    }
    return ServeRequest(**(values | changes))  # type: ignore[arg-type]


SETTINGS = Settings(context=16384, parallel=4, tensor_parallel=2, gpu_memory_utilization=0.85)


def test_exllama_behind_tabbyapi() -> None:
    command = runtime("exllama").serve(request(Settings(context=4000, kv_type="q8_0")))
    assert command.argv == (
        "/env/bin/python", "main.py", "--host", "127.0.0.1", "--port", "8080",
        "--model-dir", "/models", "--model-name", "m-gptq",
        "--max-seq-len", "4000", "--cache-size", "4096", "--cache-mode", "Q8", "--max-batch-size", "1",
        "--chunk-size", "2048", "--disable-auth", "true",
    )  # fmt: skip
    guarded = runtime("exllama").serve(request(SETTINGS, api_key_file="/key")).argv
    assert "--disable-auth" not in guarded and guarded[-2:] == ("--tensor-parallel", "true")
    assert "/key" not in guarded


def test_sglang() -> None:
    command = runtime("sglang").serve(request(SETTINGS))
    assert command.argv == (
        "/env/bin/python", "-I", "-m", "sglang.launch_server", "--model-path", "/models/m-gptq",
        "--served-model-name", "m", "--host", "127.0.0.1", "--port", "8080", "--context-length", "4096",
        "--max-running-requests", "4", "--max-total-tokens", "16384", "--chunked-prefill-size", "2048",
        "--dtype", "auto", "--kv-cache-dtype", "auto", "--load-format", "safetensors",
        "--tp-size", "2", "--pp-size", "1", "--mem-fraction-static", "0.85",
    )  # fmt: skip
    assert command.env["HF_HUB_OFFLINE"] == "1"


def test_text_generation_inference() -> None:
    command = runtime("tgi").serve(request(SETTINGS))
    assert command.argv == (
        "text-generation-launcher", "--model-id", "/models/m-gptq", "--hostname", "127.0.0.1", "--port", "8080",
        "--max-input-tokens", "4095", "--max-total-tokens", "4096", "--max-batch-prefill-tokens", "4095",
        "--max-batch-total-tokens", "16384", "--max-batch-size", "4", "--num-shard", "2", "--quantize", "gptq",
        "--cuda-memory-fraction", "0.85", "--usage-stats", "off",
    )  # fmt: skip
    plain = runtime("tgi").serve(request(Settings(context=4096, kv_type="fp8"), method="none", format="bf16")).argv
    assert plain[plain.index("--dtype") + 1] == "bfloat16" and "--quantize" not in plain
    assert plain[plain.index("--kv-cache-dtype") + 1] == "fp8_e4m3fn"


@pytest.mark.parametrize("name", ["sglang", "tgi"])
def test_no_key_in_an_argument_list(name: str) -> None:
    with pytest.raises(AdvisorError) as e:
        runtime(name).serve(request(SETTINGS, api_key_file="/key"))
    assert e.value.code == "not-available"


@pytest.mark.parametrize(("name", "kv"), [("sglang", "q8_0"), ("tgi", "q8_0"), ("exllama", "fp8")])
def test_a_cache_type_that_it_lacks(name: str, kv: str) -> None:
    with pytest.raises(AdvisorError) as e:
        runtime(name).serve(request(Settings(context=4096, kv_type=kv)))
    assert e.value.code == "not-available" and kv in e.value.message


def test_the_modelfile() -> None:
    settings = Settings(context=16384, parallel=4, gpu_layers=17, threads=6, load_mode="none")
    assert ollama.modelfile("/models/m q4.gguf", settings) == (
        "FROM /models/m q4.gguf\nPARAMETER num_ctx 4096\nPARAMETER num_gpu 17\nPARAMETER num_batch 2048\n"
        "PARAMETER num_thread 6\nPARAMETER use_mmap false\n"
    )
    with pytest.raises(AdvisorError):
        ollama.modelfile("/models/a\nSYSTEM be evil", settings)


def test_the_requests_in_order() -> None:
    calls = ollama.calls("advisor/m:q4", "m.gguf", SHA, Settings(context=4096, threads=2))
    assert [(c.method, c.path, c.file) for c in calls] == [
        ("HEAD", f"/api/blobs/sha256:{SHA}", False),
        ("POST", f"/api/blobs/sha256:{SHA}", True),
        ("POST", "/api/create", False),
        ("POST", "/api/generate", False),
    ]
    assert calls[2].body == {
        "model": "advisor/m:q4",
        "files": {"m.gguf": f"sha256:{SHA}"},
        "parameters": {"num_ctx": 4096, "num_gpu": 0, "num_batch": 2048, "num_thread": 2, "use_mmap": True},
        "stream": False,
    }
    assert calls[3].body == {"model": "advisor/m:q4", "keep_alive": -1, "stream": False}
    assert (ollama.unload("m").body or {})["keep_alive"] == 0
    assert ollama.delete("m") == ollama.Call("DELETE", "/api/delete", {"model": "m"})


@pytest.mark.parametrize("name", ["", "M", "a/b/c", "a b", "../x", "a:b:c", "-a", "a" * 200])
def test_names_that_ollama_does_not_take(name: str) -> None:
    with pytest.raises(AdvisorError):
        ollama.calls(name, "m.gguf", SHA, Settings(context=4096))


def test_only_the_daemon_decides_slots_and_the_type_of_the_cache() -> None:
    assert ollama.daemon_environment(Settings(context=1, parallel=4)) == {"OLLAMA_NUM_PARALLEL": "4"}
    assert ollama.daemon_environment(Settings(context=1, kv_type="q8_0"))["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
    with pytest.raises(AdvisorError):
        ollama.daemon_environment(Settings(context=1, kv_type="iq4_nl"))


@given(st.text(max_size=80))
def test_a_blob_is_named_by_a_digest_or_not_at_all(text: str) -> None:
    try:
        assert ollama.blob(text).endswith(text) and len(text) == 64
    except AdvisorError as e:
        assert e.code == "bug"


@pytest.mark.parametrize(
    ("name", "line", "code"),
    [
        ("sglang", "Not enough memory. Please try to increase --mem-fraction-static.", "context-too-large"),
        ("sglang", "[Errno 98] error while attempting to bind on address: address already in use", "port-taken"),
        ("sglang", "ValueError: Model architectures ['Zeta'] are not supported for now.", "unknown-architecture"),
        ("sglang", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "out-of-memory"),
        ("tgi", "Not enough memory to handle 4096 prefill tokens. You need to decrease it", "context-too-large"),
        ("tgi", "ArgumentValidation(\"`max_input_tokens` must be < `max_total_tokens`\")", "illegal-limits"),
        ("tgi", "ValueError: Unsupported model type zeta", "unknown-architecture"),
        ("exllama", "RuntimeError: Insufficient VRAM in split for model and cache", "out-of-memory"),
        ("exllama", "ValidationError: cache_size Input should be a multiple of 256", "context-too-large"),
        ("ollama", 'Error: model requires more system memory (9.1 GiB) than is available (3.0 GiB)', "out-of-memory"),
    ],
)  # fmt: skip
def test_their_failures_as_their_sources_word_them(name: str, line: str, code: str) -> None:
    found = runtime(name).diagnose("starting\n" + line + "\n")
    assert found is not None and found.code == code


def test_mlx() -> None:
    command = runtime("mlx").serve(request(Settings(context=4096), model_path="/models/m"))
    assert command.argv == (
        "/env/bin/python", "-I", "-m", "mlx_lm.server", "--model", "/models/m", "--host", "127.0.0.1", "--port", "8080",
    )  # fmt: skip
    assert command.env["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(AdvisorError, match="knows no key"):
        runtime("mlx").serve(request(SETTINGS, api_key_file="/key"))
    caps = runtime("mlx").capabilities()
    assert caps.devices == ("apple",) and not caps.loads("gptq", "w4a16-g128") and caps.loads("none", "bf16")
    found = runtime("mlx").diagnose("[METAL] Command buffer execution failed: Insufficient Memory (00000008)")
    assert found is not None and found.code == "out-of-memory"


def test_text_generation_webui() -> None:
    settings = Settings(context=8192, gpu_layers=33, threads=6, kv_type="q8_0", tensor_split=(21.0, 12.0))
    command = runtime("textgen").serve(request(settings, model_path="/models/m.gguf", method="gguf", format="q4_k_m"))
    assert command.argv == (
        "/env/bin/python", "server.py", "--api", "--nowebui", "--api-port", "8080",
        "--model-dir", "/models", "--model", "m.gguf", "--loader", "llama.cpp", "--ctx-size", "8192",
        "--gpu-layers", "33", "--batch-size", "2048", "--threads", "6", "--cache-type", "q8_0",
        "--tensor-split", "21,12",
    )  # fmt: skip
    nf4 = runtime("textgen").serve(request(Settings(context=1024), method="nf4", format="nf4")).argv
    assert nf4[-5:] == ("--loader", "Transformers", "--load-in-4bit", "--quant_type", "nf4")
    assert runtime("textgen").serve(request(SETTINGS)).argv[-2:] == ("--loader", "ExLlamav2")
    with pytest.raises(AdvisorError, match="argument list"):
        runtime("textgen").serve(request(SETTINGS, api_key_file="/key"))
    with pytest.raises(AdvisorError, match="no KV cache of type fp8"):
        runtime("textgen").serve(request(Settings(context=1024, kv_type="fp8"), method="gguf"))


@pytest.mark.parametrize(("layers", "said"), [(0, "off"), (33, "max"), (40, "max"), (11, "0.33")])
def test_lm_studio(layers: int, said: str) -> None:
    found = lmstudio.commands(Settings(context=8192, gpu_layers=layers), model="/m.gguf", layers=33, port=8080)
    assert found == (
        ("lms", "import", "/m.gguf"),
        ("lms", "load", "<NAME>", "--gpu", said, "--context-length", "8192"),
        ("lms", "server", "start", "--port", "8080"),
    )
    with pytest.raises(AdvisorError) as e:
        runtime("lmstudio").serve(request(SETTINGS))
    assert e.value.code == "not-available"
