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
# In the wording of vLLM 0.32.0.
VLLM = {
    "out-of-memory": "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`\n",
    "context-too-large": "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB "
    "KV cache is needed, which is larger than the available KV cache memory (5.1 GiB). Based on the available memory, "
    "the estimated maximum model length is 41776.\n",
    "memory-taken": "ValueError: Free memory on device cuda:0 (3.1/23.6 GiB) on startup is less than desired "
    "GPU memory utilization (0.9, 21.2 GiB).\n",
    "unknown-architecture": "ValueError: Model architectures ['Zeta5ForCausalLM'] are not supported for now.\n",
    "driver-too-old": "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).\n",
    "group-size": "ValueError: Weight input_size_per_partition=576 for layer 'q' is not divisible by group_size=128.\n",
    "port-taken": "error: 127.0.0.1:8080 cannot be bound: [Errno 98] Address already in use\n",
    "file-missing": "error: there is no folder /models/gone\n",
    "file-incomplete": "safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata\n",
    "context-beyond-model": "ValueError: User-specified max_model_len (8192) is greater than the derived max_model_len "
    "(max_position_embeddings=2048 or model_max_length=None in model's config.json).\n",
    "needs-remote-code": "RuntimeError: Failed to load the model config. If the model is a custom model not yet "
    "available in the HuggingFace transformers library, consider setting `trust_remote_code=True` in LLM\n",
    "heads-not-divisible": "ValueError: Total number of attention heads (9) must be divisible by tensor parallel size "
    "(2).\n",
    "device-too-old": "ValueError: The quantization method gptq is not supported for the current GPU. Minimum "
    "capability: 60. Current capability: 52.\n",
    "no-kernel": "ValueError: Failed to find a kernel that can implement the WNA16 linear layer. Reasons: \n"
    " CPUWNA16LinearKernel cannot implement due to: Input size (100) not supported\n",
    "build-without-metadata": "importlib.metadata.PackageNotFoundError: No package metadata was found for vllm\n",
    "no-device": "RuntimeError: Failed to infer device type, please set the environment variable\n",
    "library-missing": "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory\n",
    "package-missing": "ModuleNotFoundError: No module named 'vllm_bnb_plugin'\n",
    "chat-template-missing": "ValueError: As of transformers v4.44, default chat template is no longer allowed, so you "
    "must provide a chat template if the tokenizer does not define one.\n",
    "unknown-tokenizer": "ValueError: Couldn't instantiate the backend tokenizer from one of: ...\n",
    "illegal-instruction": "[advisor] the server was killed by SIGILL\n",
    "load-failed": "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n",
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
    found = runtimes()["vllm"].diagnose("INFO starting\n" + VLLM[code] + VLLM["load-failed"])
    assert found is not None
    assert found.code == code


def test_vllm_has_no_kernel_for_nvfp4_on_a_cpu() -> None:
    found = runtimes()["vllm"].diagnose(
        "(Worker pid=15441) ERROR 11-21 12:45:10 [multiproc_executor.py:953] ValueError: Forced NVFP4 kernel "
        "MarlinNvFp4LinearKernel is not supported: Marlin FP4 not available\n" + VLLM["load-failed"]
    )
    assert found is not None and found.code == "no-kernel" and "Marlin FP4 not available" in found.message


def test_vllm_out_of_host_memory() -> None:
    for line in (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory: you tried\n",
        "the server was killed by SIGKILL, most likely because memory ran out\n",
    ):
        found = runtimes()["vllm"].diagnose(line)
        assert found is not None and found.code == "out-of-memory"


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
