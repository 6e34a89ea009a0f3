"""The same work by hand: argument vectors for people. Paths that do not exist yet stand in angle brackets."""

from __future__ import annotations

from advisor.backends import ollama
from advisor.backends.llama.commands import file_type
from advisor.backends.runtimes import exllama, lmstudio, mlx, sglang, textgen, tgi
from advisor.backends.vllm import options as vllm
from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Commands, Settings
from advisor.facts.text import clean
from advisor.planner.candidate import Candidate

Argv = tuple[str, ...]
_AT = ("127.0.0.1", 8080)
_HOST = ("--host", _AT[0], "--port", str(_AT[1]))


def commands(
    model: ModelFacts, c: Candidate, settings: Settings, *, imatrix: bool, kv_cache_bytes: int | None = None
) -> Commands:
    """How a person would make and serve the candidate. ``kv_cache_bytes``: what the plan grants the KV cache."""
    try:
        serve = _serve(model, c, settings, kv_cache_bytes)
    except AdvisorError:  # the runtime has no such setting, a type of the KV cache for instance
        serve = ()
    return Commands(quantize=_make(model, c, imatrix), serve=serve)


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
    own = (word for named in c.types for word in ("--tensor-type", named))
    steps.append(("llama-quantize", *matrix, *own, base, _gguf(c), file_type(c.format)))
    return tuple(steps)


def _gguf(c: Candidate) -> str:
    return f"<MODEL-{c.format}{'-mixed' if c.types else ''}.gguf>"


def _served(model: ModelFacts, c: Candidate) -> str:
    if c.source == "as-is" and model.path is not None:
        return model.path
    if c.method == "gguf":
        return _gguf(c)
    return _folder(model) if c.source in ("as-is", "load-time", "prequantized") else "<OUT_DIR>"


def _serve(model: ModelFacts, c: Candidate, s: Settings, kv_cache_bytes: int | None) -> tuple[Argv, ...]:
    served = _served(model, c)
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
        return _ollama(served, s)
    if c.runtime == "lmstudio":
        return lmstudio.commands(s, model=served, layers=model.blocks + 1, port=_AT[1])
    if c.runtime == "textgen":
        return (("python", "server.py", *textgen.options(s, model=served, port=_AT[1], method=c.method)),)
    if c.runtime == "vllm":
        kv = kv_cache_bytes if c.target.kind == "cpu" else None
        return (_vllm(served, c, s, kv),)
    if c.runtime == "sglang":
        own = sglang.options(s, model=served, name=None, host=_AT[0], port=_AT[1], fmt=c.format)
        return (("python", "-m", "sglang.launch_server", *own),)
    if c.runtime == "tgi":
        own = tgi.options(s, model=served, host=_AT[0], port=_AT[1], method=c.method, fmt=c.format)
        return (("text-generation-launcher", *own),)
    if c.runtime == "exllama":
        own = exllama.options(s, model=served, host=_AT[0], port=_AT[1])
        return (("python", "main.py", *own, "--disable-auth", "true"),)
    if c.runtime == "mlx":
        return (("mlx_lm.server", *mlx.options(model=served, host=_AT[0], port=_AT[1])),)
    return _transformers(model, served, c)


def _transformers(model: ModelFacts, served: str, c: Candidate) -> tuple[Argv, ...]:
    """transformers' own server where it does the same; it knows no HQQ, which advisor's own quantizes as it loads."""
    if c.method == "hqq":
        return (("advisor", "up", clean(model.ref, 200), "--method", "hqq", "--format", c.format),)
    quantization = {"nf4": "bnb-4bit", "int8": "bnb-8bit"}.get(c.method) if c.source == "load-time" else None
    own = ("--quantization", quantization) if quantization is not None else ()
    return (("transformers", "serve", served, *own, *_HOST),)


def _vllm(served: str, c: Candidate, s: Settings, kv_cache_bytes: int | None) -> Argv:
    """vLLM's command, with the options that advisor itself starts it with."""
    device = c.target.kind
    own = vllm.options(
        s,
        model=served,
        name=None,
        host=_AT[0],
        port=_AT[1],
        method=c.method,
        fmt=c.format,
        device=device,
        kv_cache_bytes=kv_cache_bytes,
        at_load=c.source == "load-time",
    )
    return vllm.by_hand(s, device, own)


def _ollama(served: str, s: Settings) -> tuple[Argv, ...]:
    """A Modelfile, then the model of it; slots and the type of the cache are the daemon's own settings."""
    import shlex

    variables = tuple(f"{k}={v}" for k, v in ollama.daemon_environment(s).items())
    daemon = (("env", *variables, "ollama", "serve"),) if s.parallel > 1 or s.kv_type != "f16" else ()
    lines = shlex.join(("printf", "%s\\n", *ollama.modelfile(served, s).splitlines()))
    create = ("ollama", "create", "<NAME>", "-f", "Modelfile")
    return (*daemon, ("sh", "-c", f"{lines} > Modelfile"), create, ("ollama", "run", "<NAME>"))
