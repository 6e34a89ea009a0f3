"""The same work by hand: argument vectors for people. Paths that do not exist yet stand in angle brackets."""

from __future__ import annotations

from advisor.facts.model import ModelFacts
from advisor.facts.plan import Commands, Settings
from advisor.facts.text import clean
from advisor.planner.candidate import Candidate

Argv = tuple[str, ...]
_HOST = ("--host", "127.0.0.1", "--port", "8080")


def commands(model: ModelFacts, c: Candidate, settings: Settings, *, imatrix: bool) -> Commands:
    """How a person would make and serve the candidate."""
    return Commands(quantize=_make(model, c, imatrix), serve=_serve(model, c, settings))


def _folder(model: ModelFacts) -> str:
    return model.path if model.path is not None and model.weights_format != "gguf" else "<MODEL_DIR>"


def _make(model: ModelFacts, c: Candidate, imatrix: bool) -> tuple[Argv, ...]:
    if c.source != "quantize":
        return ()
    if c.method != "gguf":
        ref = clean(model.ref, 200)
        return (("advisor", "quantize", ref, "--method", c.method, "--format", c.format, "--out", "<OUT_DIR>"),)
    steps: list[Argv] = []
    plain = c.format in ("f16", "bf16")
    base = f"<MODEL-{c.format}.gguf>" if plain else "<MODEL-bf16.gguf>"
    outtype = c.format if plain else "bf16"
    folder = "<RESTORED_MODEL_DIR>" if model.weights_format == "gguf" else _folder(model)
    steps.append(("python", "convert_hf_to_gguf.py", folder, "--outfile", base, "--outtype", outtype))
    if plain:
        return tuple(steps)
    if imatrix:
        steps.append(("llama-imatrix", "-m", base, "-f", "<CALIBRATION.txt>", "-o", "<IMATRIX.gguf>"))
    matrix = ("--imatrix", "<IMATRIX.gguf>") if imatrix else ()
    steps.append(("llama-quantize", *matrix, base, _gguf(c), c.format.upper()))
    return tuple(steps)


def _gguf(c: Candidate) -> str:
    return f"<MODEL-{c.format}.gguf>"


def _served(model: ModelFacts, c: Candidate) -> str:
    if c.source == "as-is" and model.path is not None:
        return model.path
    if c.method == "gguf":
        return _gguf(c)
    return _folder(model) if c.source in ("as-is", "load-time", "prequantized") else "<OUT_DIR>"


def _serve(model: ModelFacts, c: Candidate, s: Settings) -> tuple[Argv, ...]:
    served = _served(model, c)
    each = str(s.context // s.parallel)
    split = ",".join(f"{x:g}" for x in s.tensor_split or ())
    if c.runtime == "llama.cpp":
        argv = ["llama-server", "-m", served, "-c", str(s.context), "-np", str(s.parallel)]
        argv += ["-b", str(s.batch), "-ub", str(s.ubatch), "-ngl", str(s.gpu_layers)]
        argv += ["-t", str(s.threads)] if s.threads else []
        argv += ["-ctk", s.kv_type, "-ctv", s.kv_type] if s.kv_type != "f16" else []
        argv += ["-ts", split] if split else []
        argv += ["-ncmoe", str(s.cpu_moe_layers)] if s.cpu_moe_layers else []
        argv += ["--load-mode", s.load_mode] if s.load_mode else []
        return ((*argv, *_HOST),)
    if c.runtime == "llama-cpp-python":
        argv = ["python", "-m", "llama_cpp.server", "--model", served, "--n_ctx", str(s.context)]
        argv += ["--n_gpu_layers", str(s.gpu_layers)]
        argv += ["--n_threads", str(s.threads)] if s.threads else []
        argv += ["--use_mmap", "false"] if s.load_mode in ("none", "mlock") else []
        return ((*argv, *_HOST),)
    if c.runtime == "ollama":
        return (("ollama", "create", "<NAME>", "-f", "<Modelfile with FROM and num_ctx>"), ("ollama", "run", "<NAME>"))
    if c.runtime == "lmstudio":
        return (
            ("lms", "import", served),
            ("lms", "load", "<NAME>", "--context-length", each),
            ("lms", "server", "start"),
        )
    if c.runtime == "textgen":
        loader = "llama.cpp" if c.method == "gguf" else "ExLlamav2" if c.method == "gptq" else "Transformers"
        return (("python", "server.py", "--api", "--model", served, "--loader", loader),)
    if c.runtime == "vllm":
        argv = ["vllm", "serve", served, "--max-model-len", each, "--max-num-seqs", str(s.parallel)]
        if s.gpu_memory_utilization is not None:
            argv += ["--gpu-memory-utilization", f"{s.gpu_memory_utilization:g}"]
        argv += ["--tensor-parallel-size", str(s.tensor_parallel)] if s.tensor_parallel > 1 else []
        argv += ["--kv-cache-dtype", s.kv_type] if s.kv_type.startswith("fp8") else []
        return ((*argv, *_HOST),)
    if c.runtime == "sglang":
        argv = ["python", "-m", "sglang.launch_server", "--model-path", served, "--context-length", each]
        argv += ["--tp", str(s.tensor_parallel)] if s.tensor_parallel > 1 else []
        return ((*argv, *_HOST),)
    if c.runtime == "tgi":
        argv = ["text-generation-launcher", "--model-id", served, "--max-total-tokens", each]
        argv += ["--num-shard", str(s.tensor_parallel)] if s.tensor_parallel > 1 else []
        return ((*argv, "--hostname", "127.0.0.1", "--port", "8080"),)
    if c.runtime == "exllama":
        return (("python", "main.py", "--model-dir", "<PARENT_DIR>", "--model-name", served, *_HOST),)
    if c.runtime == "mlx":
        return (("mlx_lm.server", "--model", served, *_HOST),)
    return (("transformers", "serve", served, *_HOST),)
