"""Load a checkpoint with transformers as its recipe says: 16 bits, NF4, INT8 (bitsandbytes) or HQQ.

For runners of the environment ``transformers`` only: ``load(folder, recipe=...)``. Three ways lead to a model:

* as it is stored: 16 or 32 bits, or a checkpoint whose config.json says that bitsandbytes quantized it;
* NF4 and INT8 at load: bitsandbytes through transformers;
* HQQ at load: the hqq library, one matrix after the other straight from the files, so that no more than one of them
  is in memory in 16 bits. (transformers' own HqqConfig raises NotImplementedError in 5.23.)

Nothing is fetched, no code of a model is run, and pickles are refused: weights come from safetensors files.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from loaded import what
from protocol import Failed

FLOATS = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
AT_LOAD = ("nf4", "int8", "hqq")
STORED = ("bitsandbytes",)  # quantizations in config.json that this environment loads
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
HQQ_BITS = (1, 2, 3, 4, 8)
HQQ_AXIS = 1  # a group lies along the inputs of one output row, as in every other format here
INT8_THRESHOLD = 6.0  # LLM.int8(): columns of activations above this stay in 16 bits (arXiv 2208.07339, section 3.2)


class Loaded(NamedTuple):
    """A model ready for inference, its tokenizer, and what was really loaded (see ``what``)."""

    model: Any
    tokenizer: Any
    report: dict[str, Any]


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json, after a look at the folder.

    Raises:
        Failed: ``file-not-found``, ``pickle-refused``, ``untrusted-model-config``.
    """
    if not (folder / "config.json").is_file():
        raise Failed("file-not-found", f"There is no checkpoint with a config.json in {folder}.")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as e:
        raise Failed("untrusted-model-config", f"{folder / 'config.json'} cannot be read: {e}") from e
    if not isinstance(config, dict):
        raise Failed("untrusted-model-config", f"{folder / 'config.json'} is not an object.")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise Failed("pickle-refused", f"The weights in {folder} are pickles ({pickles[0]}); they are not read.")
        raise Failed("missing-part", f"There are no safetensors files in {folder}.")
    return config


def stored_as(config: dict[str, Any]) -> str | None:
    """The quantization that config.json names, ``None`` for a checkpoint in 16 or 32 bits."""
    found = config.get("quantization_config")
    return str(found.get("quant_method", "unknown")) if isinstance(found, dict) else None


def pick_device(wanted: str) -> str:
    """torch's name of the device: ``auto``, ``cpu``, or a vendor's word as plans write it.

    Raises:
        Failed: ``runtime-unfit``, torch does not see the device.
    """
    import torch

    seen = {
        "cuda": torch.cuda.is_available(),
        "xpu": hasattr(torch, "xpu") and torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return next(name for name, there in seen.items() if there)
    name = {"nvidia": "cuda", "amd": "cuda", "intel": "xpu", "apple": "mps"}.get(wanted, wanted)
    if not seen.get(name.split(":")[0]):
        raise Failed("runtime-unfit", f"torch {torch.__version__} sees no device {name!r} here.")
    return name


def pick_dtype(wanted: str, config: dict[str, Any], device: str) -> Any:
    """torch's type for what is not quantized.

    ``auto``: the checkpoint's own 16-bit type where the device computes in it, else bfloat16. A processor computes in
    bfloat16 about as fast as in float16 or faster, and it does not overflow.
    """
    import torch

    if wanted in FLOATS:
        return getattr(torch, FLOATS[wanted])
    own = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    if device.startswith("cuda"):
        if own == "bfloat16" and not torch.cuda.is_bf16_supported():
            return torch.float16
        return torch.float16 if own == "float16" else torch.bfloat16
    if device.startswith("mps"):
        return torch.float16 if own == "float16" else torch.bfloat16
    return torch.bfloat16


def load(
    folder: str | Path,
    *,
    recipe: dict[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Loaded:
    """Load the checkpoint in ``folder``, quantizing it as ``recipe`` (``Recipe.to_json()``) says where it is at load.

    ``dtype``: ``auto``, ``bf16``, ``f16`` or ``f32``, of what is not quantized and of the computing. ``progress`` is
    told how many of the matrices are quantized while HQQ works.

    Raises:
        Failed: ``file-not-found``, ``pickle-refused``, ``untrusted-model-config``, ``missing-part``,
            ``runtime-unfit`` (device or quantization that is not loaded here), ``illegal-recipe``.
    """
    path = Path(folder)
    config = read_config(path)
    stored, method = stored_as(config), str((recipe or {}).get("method", "none"))
    at_load = bool((recipe or {}).get("at_load"))
    if stored is not None and stored not in STORED:
        raise Failed(
            "runtime-unfit", f"Checkpoints quantized by {stored} are not loaded here, only {', '.join(STORED)}."
        )
    if at_load and stored is not None:
        raise Failed("illegal-recipe", f"The checkpoint is quantized already ({stored}); nothing is quantized at load.")
    if at_load and method not in AT_LOAD:
        raise Failed("illegal-recipe", f"transformers quantizes {', '.join(AT_LOAD)} at load, not {method!r}.")

    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # LLM.int8() casts its inputs to float16 and says so at each of hundreds of layers, for each token; and a further
    # kernel for NF4, which would have to be fetched from a hub when it is used, is left out on purpose.
    for name in ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if threads:
        torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    begun = time.monotonic()
    where = pick_device(device)
    kind = pick_dtype(dtype, config, where)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if at_load and method == "hqq":
        model = _hqq(path, recipe or {}, where, kind, progress)
    else:
        model = _plain(path, where, kind, _bitsandbytes(recipe or {}, kind) if at_load else None)
    model.eval()
    _give_back()
    report = {**what(model), "device": where, "seconds": round(time.monotonic() - begun, 3), "stored": stored}
    report["versions"] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **{name: _version(name) for name in ("bitsandbytes", "hqq") if _used(name, method, stored, at_load=at_load)},
    }
    return Loaded(model, tokenizer, report)


def _give_back() -> None:
    """Return what loading and quantizing took for a while to the system; glibc keeps it otherwise."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _version(name: str) -> str:
    from importlib import metadata

    return metadata.version(name)


def _used(library: str, method: str, stored: str | None, *, at_load: bool) -> bool:
    return stored == library or (at_load and (library == "hqq") == (method == "hqq"))


def _plain(path: Path, device: str, dtype: Any, quantization: Any) -> Any:
    """What ``from_pretrained`` makes of the folder."""
    import transformers

    more = {"quantization_config": quantization} if quantization is not None else {}
    return transformers.AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        device_map={"": device},
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        **more,
    )


def _bitsandbytes(recipe: dict[str, Any], dtype: Any) -> Any:
    """The configuration of NF4 (QLoRA, arXiv 2305.14314) or LLM.int8()."""
    from transformers import BitsAndBytesConfig

    ignore = list(recipe.get("ignore") or ("lm_head",))
    if recipe["method"] == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=INT8_THRESHOLD, llm_int8_skip_modules=ignore)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=recipe.get("double_quant") is not False,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=ignore,
    )


# -- HQQ ---------------------------------------------------------------------------------------------------------------


def hqq_targets(names: Iterable[str], ignore: Iterable[str]) -> list[str]:
    """The matrices to quantize: those whose name is not in ``ignore``, whole or as the last part."""
    kept = tuple(ignore)
    return [n for n in names if not any(n == k or n.endswith(f".{k}") or n.startswith(f"{k}.") for k in kept)]


def _hqq(
    path: Path, recipe: dict[str, Any], device: str, dtype: Any, progress: Callable[[int, int], None] | None
) -> Any:
    """Fill an empty model from the files, quantizing each matrix as it comes.

    Where the names in the files are not those of the model (transformers renames or fuses some architectures' weights
    when it loads them), the whole model is loaded in 16 bits and quantized in place.
    """
    import torch
    import transformers
    from accelerate import init_empty_weights

    bits, group = int(recipe.get("bits") or 4), recipe.get("group_size")
    if bits not in HQQ_BITS:
        raise Failed("illegal-recipe", f"HQQ quantizes to {', '.join(map(str, HQQ_BITS))} bits, not {bits}.")
    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    model.tie_weights()
    files = _tensor_files(path)
    if missing := set(_parameters(model)) - set(files):
        print(f"names differ in the files ({sorted(missing)[:3]}): loading in 16 bits first", flush=True)
        model, files = _plain(path, "cpu", dtype, None), {}
    linears = {n: m for n, m in model.named_modules() if type(m) is torch.nn.Linear}
    targets = hqq_targets(linears, recipe.get("ignore") or ("lm_head",))
    _hqq_divides({n: linears[n].in_features * linears[n].out_features for n in targets}, group)
    done = 0
    with _Files(files) as tensors:
        for name in targets:
            linear = linears.pop(name)
            if files:
                _fill(linear, name, tensors, dtype, "cpu")
            _replace(model, name, _hqq_linear(linear, bits, group, device, dtype))
            del linear
            done += 1
            if progress is not None:
                progress(done, len(targets))
        for name in sorted(_parameters(model)) if files else ():
            owner, _, leaf = name.rpartition(".")
            _set(model.get_submodule(owner), leaf, tensors.get(name), dtype, device)
    model.tie_weights()
    model.to(device)
    if (path / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(path, local_files_only=True)
    return model


def _hqq_divides(elements: dict[str, int], group: int | None) -> None:
    for name, n in elements.items():
        if group and n % group:
            raise Failed("illegal-recipe", f"Group size {group} does not divide the {n} weights of {name}.")


def _hqq_linear(linear: Any, bits: int, group: int | None, device: str, dtype: Any) -> Any:
    from hqq.core.quantize import BaseQuantizeConfig, HQQBackend, HQQLinear

    HQQLinear.set_backend(HQQBackend.PYTORCH_FORWARD)
    settings = BaseQuantizeConfig(nbits=bits, group_size=group, axis=HQQ_AXIS)
    return HQQLinear(linear, quant_config=settings, compute_dtype=dtype, device=device, del_orig=True)


def _parameters(model: Any) -> list[str]:
    """Names of the parameters that hold no data yet, shared ones once."""
    return [n for n, p in model.named_parameters() if p.is_meta]


def _set(module: Any, leaf: str, tensor: Any, dtype: Any, device: str) -> None:
    import torch

    value = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
    setattr(module, leaf, torch.nn.Parameter(value, requires_grad=False))


def _fill(linear: Any, name: str, tensors: _Files, dtype: Any, device: str) -> None:
    for leaf in ("weight", "bias"):
        if getattr(linear, leaf, None) is not None:
            _set(linear, leaf, tensors.get(f"{name}.{leaf}"), dtype, device)


def _replace(model: Any, name: str, module: Any) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)


def _tensor_files(path: Path) -> dict[str, Path]:
    """Tensor name -> the safetensors file that holds it."""
    from safetensors import safe_open

    found: dict[str, Path] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as f:
            found.update(dict.fromkeys(f.keys(), file))
    return found


class _Files:
    """Open safetensors files; only what is asked for is read."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files, self._open = files, {}  # type: dict[str, Path], dict[Path, Any]

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()

    def get(self, name: str) -> Any:
        """The tensor, on the processor."""
        from safetensors import safe_open

        file = self._files[name]
        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt")
        return self._open[file].get_tensor(name)
