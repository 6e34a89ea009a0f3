"""vLLM's known failures, as its log shows them, causes before what follows from them."""

from __future__ import annotations

from typing import Final

from advisor.backends.diagnose import CUDA, Known, known

FAILURES: Final[tuple[Known, ...]] = (
    known(
        r"error: .{0,200}cannot be bound|address already in use|Errno 98",
        "port-taken",
        "The port is in use: {0}",
        "advisor up MODEL --port 8081",
    ),
    known(
        r"error: (the key file|there is no (file|folder))",
        "file-missing",
        "A file that the server was given is not there: {0}",
        "advisor up MODEL --restart",
    ),
    known(
        r"KV\s+cache is needed, which is larger than|"
        r"max seq len \(\d+\) is larger than the maximum number of tokens|"
        r"on kv cache allocation is less than requested memory for kv",
        "context-too-large",
        "The KV cache of the context does not fit: {0}",
        "advisor up MODEL --context 4096",
    ),
    known(
        r"User-specified max_model_len .{0,40} is greater than the derived",
        "context-beyond-model",
        "The model was not trained for that much context: {0}",
        "Take the model's own length: advisor up MODEL --context 2048",
    ),
    known(
        r"Free memory on device .{0,160} is less than|"
        r"Available memory on node .{0,160} on startup is less than desired",
        "memory-taken",
        "Other processes hold the memory: {0}",
        "End the other process, or plan with less: advisor recommend MODEL --max-memory 8GB",
    ),
    known(
        r"Model architectures? .{0,200} (are|is) not supported|failed to be inspected",
        "unknown-architecture",
        "vLLM does not know the architecture: {0}",
        "advisor recommend MODEL --runtime llama.cpp",
    ),
    known(
        r"does not recognize this architecture",
        "unknown-architecture",
        "The transformers library beside vLLM does not know the architecture: {0}",
        "advisor recommend MODEL --runtime llama.cpp",
    ),
    known(
        r"trust_remote_code=True|requires you to execute the configuration file",
        "needs-remote-code",
        "The checkpoint wants its own program code run, which advisor does not do: {0}",
        "advisor recommend MODEL --runtime llama.cpp",
    ),
    known(
        r"attention heads \(\d+\) must be divisible by tensor parallel size",
        "heads-not-divisible",
        "The attention heads cannot be shared evenly by that many devices: {0}",
        "Take 1, 2 or 4 devices, or: advisor up MODEL --runtime llama.cpp",
    ),
    known(
        r"Bfloat16 is only supported on GPUs",
        "device-too-old",
        "The device has no bfloat16 units: {0}",
        "Take a 16-bit float format: advisor up MODEL --method none --format f16",
    ),
    known(
        r"(quantization method|Quantization scheme) .{0,80}is not supported for the current GPU|"
        r"quantization is currently not supported in|Minimum capability: \d+",
        "device-too-old",
        "The device lacks what this format needs: {0}",
        "Take another format: advisor recommend MODEL",
    ),
    known(
        r"Failed to find a kernel that can implement|Forced \w+ kernel \w+ is not supported|"
        r"has no attribute '(gptq_marlin|scaled_fp4|marlin|fp4)\w*'|"
        r"'_OpNamespace' '_?C\w*' object has no attribute|no kernel .{0,40}for (this|the) platform",
        "no-kernel",
        "vLLM has no kernel for this format on this device: {0}",
        "Take another format: advisor recommend MODEL",
    ),
    known(
        r"No package metadata was found for vllm|PackageNotFoundError: .{0,40}vllm",
        "build-without-metadata",
        "This build of vLLM is not called vllm, so its command line cannot start: {0}",
        "advisor env doctor",
    ),
    known(
        r"Failed to infer device type",
        "no-device",
        "vLLM finds no device that this build can use: {0}",
        "advisor doctor",
    ),
    known(
        r"ImportError: lib\S+\.so\S* ?: cannot open shared object file|GLIBC(XX)?_\S+ not found|"
        r"undefined symbol|Failed to import from vllm\._C",
        "library-missing",
        "A library of vLLM's build does not load: {0}",
        "advisor env doctor",
    ),
    known(
        r"no chat template|chat template is no longer allowed|ChatTemplateResolutionError|"
        r"must provide a chat template",
        "chat-template-missing",
        "The checkpoint has no chat template, so it answers completions only: {0}",
        "Take the tuned (instruct) model, or put its chat_template.jinja into the checkpoint's folder.",
    ),
    known(
        r"Cannot find any model weights|error: there is no file of weights|Error while deserializing header|"
        r"SafetensorError|MetadataIncompleteBuffer",
        "file-incomplete",
        "The weights are missing, cut off or damaged: {0}",
        "Make or fetch them again: advisor quantize MODEL",
    ),
    known(
        r"Can't load (the )?tokenizer|Couldn't instantiate the backend tokenizer|Tokenizer class \S+ does not exist",
        "unknown-tokenizer",
        "The checkpoint's tokenizer does not load: {0}",
        "advisor verify ARTIFACT",
    ),
    known(
        r"is not supported for quantization method .{0,40}Supported dtypes",
        "dtype",
        "This format does not run with that type of activations: {0}",
        "Take another format: advisor recommend MODEL",
    ),
    *CUDA,
    known(
        r"DefaultCPUAllocator: (can't|not enough memory)|std::bad_alloc|Cannot allocate memory|"
        r"(ended by|signal|killed by) SIGKILL|exit (status|code) 137|\(core dumped\).{0,40}killed|MemoryError",
        "out-of-memory",
        "There was not enough memory: {0}",
        "advisor recommend MODEL --goal smallest-memory",
        "002 section 27.8.3",
    ),
    known(
        r"Illegal instruction|SIGILL|exit (status|code) 132",
        "illegal-instruction",
        "This build of vLLM was made for another processor: {0}",
        "advisor up MODEL --runtime llama.cpp",
    ),
    known(
        r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError",
        "load-failed",
        "vLLM's engine ended while it started; its log says why further up: {0}",
        "advisor logs NAME -n 400",
    ),
)
