"""Log tails, as the tools write them, and what they are taken for."""

from __future__ import annotations

import pytest

from advisor.backends.registry import quantizers, runtimes

LLAMA = {
    "not-gguf": "0.00.003.528 E gguf_init_from_reader: invalid magic characters: 'hell', expected 'GGUF'\n"
    "0.00.003.659 E llama_model_load: error loading model: llama_model_loader: failed to load model from bad.gguf\n"
    "error: llama.cpp does not start: Failed to init server, please check the input params.\n",
    "file-incomplete": "E llama_model_load: error loading model: tensor 'blk.7.ffn_down.weight' data is not within the "
    "file bounds, model is corrupted or incomplete\nE srv load_model: failed to load model, 'trunc.gguf'\n",
    "port-taken": "error: 127.0.0.1:18111 cannot be bound: [Errno 98] Address already in use\n",
    "unknown-architecture": "llama_model_load: error loading model: unknown model architecture: 'zeta5'\n",
    "unknown-tokenizer": "error loading model vocabulary: unknown pre-tokenizer type: 'zeta'\n",
    "context-too-large": "llama_kv_cache: failed to allocate buffer for kv cache\n"
    "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache\n",
    "device-out-of-memory": "ggml_vulkan: Device memory allocation of size 536870912 failed.\n"
    "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n"
    "alloc_tensor_range: failed to allocate Vulkan0 buffer of size 536870912\n",
    "out-of-memory": "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n",
    "illegal-instruction": "The server was ended: exit status 132\n",
    "library-missing": "ImportError: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found\n",
    "kv-type": "error: llama.cpp has no type 'q9_9' for the KV cache\n",
    "file-missing": "error: there is no file /models/gone.gguf\n",
    "load-failed": "error: llama.cpp does not start: Failed to init server, please check the input params.\n",
}
VLLM = {
    "out-of-memory": "ValueError: No available memory for the cache blocks. Try increasing gpu_memory_utilization\n",
    "context-too-large": "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB "
    "KV cache is needed, which is larger than the available KV cache memory (5.1 GiB).\n",
    "memory-taken": "ValueError: Free memory on device (3.1/23.6 GiB) on startup is less than desired GPU memory "
    "utilization (0.9, 21.2 GiB).\n",
    "unknown-architecture": "Model architectures ['Zeta5ForCausalLM'] are not supported for now.\n",
    "driver-too-old": "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).\n",
    "group-size": "ValueError: Weight input_size_per_partition = 576 is not divisible by group_size = 128.\n",
}
QUANTIZER = {
    "unknown-tokenizer": "NotImplementedError: BPE pre-tokenizer was not recognized - update get_vocab_base_pre()\n",
    "already-quantized": "llama_model_quantize: failed to quantize: requantizing from type q4_1 is disabled\n",
    "unknown-architecture": "ERROR:hf-to-gguf:Model ZetaForCausalLM is not supported\n",
    "disk-full": "OSError: [Errno 28] No space left on device\n",
}


@pytest.mark.parametrize("code", sorted(LLAMA))
def test_llama_cpp(code: str) -> None:
    found = runtimes()["llama.cpp"].diagnose("srv init: loading model\n" * 50 + LLAMA[code])
    assert found is not None
    assert found.code == code
    assert found.remedy
    assert "{0}" not in found.message


@pytest.mark.parametrize("code", sorted(VLLM))
def test_vllm(code: str) -> None:
    found = runtimes()["vllm"].diagnose("INFO starting\n" + VLLM[code])
    assert found is not None
    assert found.code == code


@pytest.mark.parametrize("code", sorted(QUANTIZER))
def test_gguf_quantizer(code: str) -> None:
    found = quantizers()["llama.cpp"].diagnose(QUANTIZER[code])
    assert found is not None
    assert found.code == code


def test_the_line_is_shown_without_terminal_escapes() -> None:
    found = runtimes()["llama.cpp"].diagnose("\x1b[31munknown model architecture: 'a\x07b\u202e'\x1b[0m")
    assert found is not None
    assert "\x1b" not in found.message
    assert "\u202e" not in found.message


def test_a_healthy_log_is_no_finding() -> None:
    log = (
        "I srv init: model loaded\nI srv init: listening on http://127.0.0.1:8080\nserving m on http://127.0.0.1:8080\n"
    )
    assert all(r.diagnose(log) is None for r in runtimes().values())
