"""llama.cpp's C library inside the cyllama-vulkan wheel, by ctypes: models of which a part lies on a Vulkan device.

The structures are those of llama.cpp b9190 (cyllama 0.2.18), not those of the ``llama.cpp`` environment. Their layout
is proved by the defaults that the library returns, and by what a context reports after it was made. The wheel's Python
interface is not used for loading, because it cannot place the experts of single layers on the host.
"""

from __future__ import annotations

import ctypes as c
import importlib.util
import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gguf_min
import llama_c
import protocol

P = c.c_void_p
PADDING = 1024
MIB = 1 << 20
GPU_TYPES = (1, 2)  # GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU
MODEL_FLAGS = ("vocab_only", "use_mmap", "use_direct_io", "use_mlock", "check_tensors", "use_extra_bufts", "no_host")
MODEL_DEFAULTS = (False, True, False, False, False, True, False)
NUMBERS = ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_threads", "n_threads_batch")
NUMBER_DEFAULTS = (512, 2048, 512, 1, 0, 4, 4)
CONTEXT_FLAGS = ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified")
CONTEXT_DEFAULTS = (False, True, True, True, True, False)
# load mode of a plan -> (use_mmap, use_direct_io, use_mlock)
LOAD_MODES = {
    "auto": (True, False, False),
    "mmap": (True, False, False),
    "none": (False, False, False),
    "mlock": (False, False, True),
    "mmap+mlock": (True, False, True),
    "dio": (False, True, False),
}
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
BUFFER = re.compile(r"^\S+:\s+(\S+)\s+(model|KV|RS|compute|output) buffer size\s*=\s*([\d.]+) MiB", re.MULTILINE)
OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
# What ``llama_context::memory_breakdown`` returns: a ``std::map`` of libstdc++, from kinds of buffers to three sizes.
BREAKDOWN = "_ZNK13llama_context16memory_breakdownEv"
SIZES = ("weights", "kv", "compute")
PURPOSES = {"model": "weights", "KV": "kv", "RS": "state", "compute": "compute", "output": "output"}


class Override(c.Structure):
    """A tensor name pattern and the kind of buffer that such tensors go to."""

    _fields_ = [("pattern", c.c_char_p), ("buffer", P)]


class ModelParams(c.Structure):
    """``llama_model_params`` of b9190, padded."""

    _fields_ = [
        ("devices", P),
        ("overrides", c.POINTER(Override)),
        ("n_gpu_layers", c.c_int32),
        ("split_mode", c.c_int32),
        ("main_gpu", c.c_int32),
        ("tensor_split", c.POINTER(c.c_float)),
        ("progress_callback", P),
        ("progress_data", P),
        ("kv_overrides", P),
        *((name, c.c_bool) for name in (*MODEL_FLAGS, "no_alloc")),
        ("rest", c.c_char * PADDING),
    ]


class ContextParams(c.Structure):
    """``llama_context_params`` of b9190, padded."""

    _fields_ = [
        *((name, c.c_uint32) for name in NUMBERS),
        *((name, c.c_int32) for name in ("rope_scaling", "pooling", "attention", "flash_attention")),
        ("scales", c.c_float * 6),
        ("yarn_context", c.c_uint32),
        ("defrag", c.c_float),
        ("callback", P),
        ("callback_data", P),
        ("type_k", c.c_int32),
        ("type_v", c.c_int32),
        ("abort", P),
        ("abort_data", P),
        *((name, c.c_bool) for name in CONTEXT_FLAGS),
        ("rest", c.c_char * PADDING),
    ]


class Entry(c.Structure):
    """A node of that map: its neighbours, the kind of buffer, and bytes of model, context and work buffer there."""


Entry._fields_ = [
    ("color", c.c_int),
    ("parent", P),
    ("left", c.POINTER(Entry)),
    ("right", c.POINTER(Entry)),
    ("kind", P),
    ("sizes", c.c_size_t * 3),
]


class Entries(c.Structure):
    """The map itself."""

    _fields_ = [
        ("compare", P),
        ("color", c.c_int),
        ("root", c.POINTER(Entry)),
        ("least", P),
        ("greatest", P),
        ("count", c.c_size_t),
    ]


SIGNATURES: tuple[tuple[Any, ...], ...] = (
    *llama_c.SIGNATURES,
    ("llama_n_seq_max", c.c_uint32, P),
    ("llama_max_devices", c.c_size_t),
    (BREAKDOWN, Entries, P),
)
DEVICE_SIGNATURES: tuple[tuple[Any, ...], ...] = (
    ("ggml_backend_load", P, c.c_char_p),
    ("ggml_backend_dev_count", c.c_size_t),
    ("ggml_backend_dev_get", P, c.c_size_t),
    ("ggml_backend_dev_init", P, P, c.c_char_p),
    ("ggml_backend_free", None, P),
    ("ggml_backend_dev_name", c.c_char_p, P),
    ("ggml_backend_dev_description", c.c_char_p, P),
    ("ggml_backend_dev_type", c.c_int, P),
    ("ggml_backend_dev_memory", None, P, c.POINTER(c.c_size_t), c.POINTER(c.c_size_t)),
    ("ggml_backend_cpu_buffer_type", P),
    ("ggml_backend_buft_name", c.c_char_p, P),
)


def libraries() -> dict[str, Path]:
    """The wheel's shared libraries by their first names: ``llama``, ``ggml``, ``ggml-base``, ``ggml-cpu`` ...

    Raises:
        Failed: ``env-failed``.
    """
    spec = importlib.util.find_spec("cyllama")
    out: dict[str, Path] = {}
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).parent.glob("cyllama*.libs/lib*.so*")):
            m = re.fullmatch(r"lib(\w+(?:-[a-z]+\w*?)??)-[0-9a-f]{8}\.so.*", path.name)
            if m is not None:
                out.setdefault(m[1], path)
    if not {"llama", "ggml", "ggml-base", "ggml-cpu", "ggml-vulkan"} <= set(out):
        raise protocol.Failed("env-failed", f"cyllama-vulkan is not in this environment ({sorted(out)}).")
    return out


def virtual_bytes(*, peak: bool = False) -> int:
    """Address space of this process now, or the most that it ever had."""
    wanted = "VmPeak:" if peak else "VmSize:"
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))


class Engine:
    """The library with its backends loaded; the whole log is kept in ``kept``, warnings go to standard error."""

    def __init__(self, *, verbose: bool = False) -> None:
        found = libraries()
        try:
            self.lib = c.CDLL(str(found["llama"]))
            ggml, base, cpu = (c.CDLL(str(found[n])) for n in ("ggml", "ggml-base", "ggml-cpu"))
        except OSError as e:
            raise protocol.Failed(
                "env-failed",
                f"llama.cpp's Vulkan build does not load: {e}.",
                ["The system's Vulkan loader is libvulkan.so.1 (Debian and Ubuntu: apt-get install libvulkan1)."],
            ) from e
        for holders, table in (((self.lib,), SIGNATURES), ((ggml, base, cpu), DEVICE_SIGNATURES)):
            for name, result, *arguments in table:
                function = next((getattr(h, name) for h in holders if hasattr(h, name)), None)
                if function is None:
                    raise protocol.Failed("env-failed", f"The llama.cpp library here has no {name}.")
                function.restype, function.argtypes = result, arguments
                if holders != (self.lib,):
                    setattr(self, name, function)
        self.lib.llama_model_default_params.restype = ModelParams
        self.lib.llama_context_default_params.restype = ContextParams
        self.lib.llama_model_load_from_file.argtypes = [c.c_char_p, ModelParams]
        self.lib.llama_init_from_model.argtypes = [P, ContextParams]
        self.errors: list[str] = []
        self.kept: list[str] = []

        def log(level: int, text: bytes, _user: int | None) -> None:
            line = text.decode(errors="replace")
            if level == 4:
                self.errors = [*self.errors[-19:], line.strip()]
            self.kept.append(line)
            if verbose or level >= 3:
                sys.stderr.write(line)

        # Kept as an attribute: the library calls it for as long as it lives.
        self._log = c.CFUNCTYPE(None, c.c_int, c.c_char_p, P)(log)
        self.lib.llama_log_set(c.cast(self._log, P), None)
        for name, path in found.items():
            if name in ("ggml-cpu", "ggml-vulkan"):
                self.ggml_backend_load(str(path).encode())  # type: ignore[attr-defined]
        self.lib.llama_backend_init()
        self.devices = self._devices()

    def _devices(self) -> list[dict[str, Any]]:
        """Accelerators: name, description, total and free bytes. Each is opened once, so that what its driver takes is
        taken before any limit is set."""
        out = []
        call: Any = self
        for i in range(call.ggml_backend_dev_count()):
            device = call.ggml_backend_dev_get(i)
            if call.ggml_backend_dev_type(device) not in GPU_TYPES:
                continue
            opened = call.ggml_backend_dev_init(device, None)
            if opened:
                call.ggml_backend_free(opened)
            free, total = c.c_size_t(), c.c_size_t()
            call.ggml_backend_dev_memory(device, c.byref(free), c.byref(total))
            out.append(
                {
                    "name": call.ggml_backend_dev_name(device).decode(errors="replace"),
                    "description": call.ggml_backend_dev_description(device).decode(errors="replace"),
                    "total_bytes": total.value,
                    "free_bytes": free.value,
                }
            )
        return out

    def limit(self, size: int) -> None:
        """Let this process take at most ``size`` bytes of address space more than it has now."""
        room = virtual_bytes() + size
        resource.setrlimit(resource.RLIMIT_AS, (room, room))

    def open(self, path: Path, settings: dict[str, Any], *, outputs: int = 0) -> llama_c.Model:
        """Load a model with a part of its layers on the devices, and make its context.

        Args:
            settings: ``gpu_layers``, ``cpu_moe_layers``, ``tensor_split``, ``load_mode``, ``context``, ``parallel``,
                ``batch``, ``ubatch``, ``kv_type``, ``kv_on_device``, ``threads``; ``dry``: nothing is read or
                allocated, what comes back can only be asked for its ``needs``.

        Raises:
            Failed: ``out-of-memory`` where memory is what lacks, ``artifact-invalid`` for a file that does not load,
                ``env-failed`` where the library is another build.
        """
        lib = self.lib
        mp, cp = lib.llama_model_default_params(), lib.llama_context_default_params()
        flags = tuple(getattr(mp, f) for f in MODEL_FLAGS), tuple(getattr(cp, f) for f in CONTEXT_FLAGS)
        numbers = tuple(getattr(cp, f) for f in NUMBERS)
        if (
            flags != (MODEL_DEFAULTS, CONTEXT_DEFAULTS)
            or numbers != NUMBER_DEFAULTS
            or (mp.n_gpu_layers, mp.split_mode, cp.type_k, cp.type_v) != (-1, 1, 1, 1)
        ):
            raise protocol.Failed("env-failed", f"The llama.cpp library here is not the pinned build ({numbers}).")
        kept = self._model_settings(mp, settings)
        mp.no_alloc = bool(settings.get("dry", False))
        model = lib.llama_model_load_from_file(str(path).encode(), mp)
        if not model:
            raise self._refused("artifact-invalid", f"llama.cpp does not load {path.name}.")
        del kept
        batch, threads = int(settings.get("batch", 2048)), int(settings.get("threads") or os.cpu_count() or 1)
        cp.n_ctx, cp.n_batch = int(settings["context"]), batch
        cp.n_ubatch = min(int(settings.get("ubatch", 512)), batch)
        cp.n_seq_max = int(settings.get("parallel", 1))
        cp.n_threads = cp.n_threads_batch = threads
        kind = str(settings.get("kv_type", "f16"))
        cp.type_k = cp.type_v = gguf_min.TYPES[kind]
        if kind not in ("f32", "f16", "bf16"):
            cp.flash_attention = 1
        cp.offload_kqv = bool(settings.get("kv_on_device", True))
        cp.swa_full = False
        ctx = lib.llama_init_from_model(model, cp)
        if not ctx:
            raise self._refused("step-failed", f"llama.cpp makes no context for {path.name}.")
        room = lib.llama_n_ctx(ctx)
        got = (lib.llama_n_batch(ctx), lib.llama_n_ubatch(ctx), lib.llama_n_threads_batch(ctx))
        asked = (min(cp.n_batch, room), min(cp.n_ubatch, room), threads)
        if (*got, lib.llama_n_seq_max(ctx)) != (*asked, cp.n_seq_max) or room < cp.n_ctx:
            raise protocol.Failed("env-failed", f"The llama.cpp library here is not the pinned build (context {got}).")
        return llama_c.Model(self, path, model, ctx)  # type: ignore[arg-type]

    def _model_settings(self, mp: Any, settings: dict[str, Any]) -> list[Any]:
        """Fill in the model's structure; what is returned must live until the model is loaded."""
        mode = str(settings.get("load_mode") or "auto")
        if mode not in LOAD_MODES:
            raise protocol.Failed("bad-option", f"No load mode {mode!r}.")
        # A mapping of a dry load would be an allocation.
        mp.use_mmap, mp.use_direct_io, mp.use_mlock = LOAD_MODES["none" if settings.get("dry") else mode]
        mp.n_gpu_layers = int(settings.get("gpu_layers", 0))
        kept: list[Any] = []
        call: Any = self
        if shares := settings.get("tensor_split"):
            many = (c.c_float * call.llama_max_devices())(*shares)
            mp.tensor_split = c.cast(many, c.POINTER(c.c_float))
            kept.append(many)
        if experts := int(settings.get("cpu_moe_layers", 0)):
            table = (Override * (experts + 1))()
            for i in range(experts):
                table[i] = Override(f"blk\\.{i}{EXPERTS}".encode(), call.ggml_backend_cpu_buffer_type())
            mp.overrides = c.cast(table, c.POINTER(Override))
            kept.append(table)
        return kept

    def _refused(self, code: str, message: str) -> protocol.Failed:
        log = "".join(self.kept)
        if OUT_OF_MEMORY.search(log):
            code, message = "out-of-memory", f"{message[:-1]}: there is too little memory."
        return protocol.Failed(code, message, self.errors)

    def needs(self, model: llama_c.Model) -> dict[str, dict[str, int]]:
        """Bytes by device and purpose that a model takes, or would take after a dry load; ``kv`` with recurrent state.

        Names as for ``buffers``. The buffer of logits, which is the host's, is not among them.
        """
        call: Any = self
        names = {d["name"] for d in self.devices}
        out: dict[str, dict[str, int]] = {}
        found = getattr(self.lib, BREAKDOWN)(model._ctx)
        waiting = [found.root] if found.count else []
        while waiting:
            entry = waiting.pop().contents
            waiting += [side for side in (entry.left, entry.right) if side]
            device = call.ggml_backend_buft_name(entry.kind).decode(errors="replace")
            one = out.setdefault(device if device in names else "host", {})
            for what, size in zip(SIZES, entry.sizes, strict=True):
                one[what] = one.get(what, 0) + size
        return out

    def buffers(self) -> dict[str, dict[str, int]]:
        """Bytes by device and purpose, as the log has them: MiB with two digits, so true to 5.3 kB a line.

        Everything that is not an accelerator's own memory is ``host``, the memory that it shares with one included.
        """
        names = {d["name"] for d in self.devices}
        out: dict[str, dict[str, int]] = {}
        for device, what, size in BUFFER.findall("".join(self.kept)):
            one = out.setdefault(device if device in names else "host", {})
            one[PURPOSES[what]] = one.get(PURPOSES[what], 0) + round(float(size) * MIB)
        return out


OUT_OF_MEMORY = re.compile(
    r"ErrorOutOfDeviceMemory|ErrorOutOfHostMemory|Device memory allocation of size|exceeds device (max )?buffer size|"
    r"failed to allocate|unable to allocate|insufficient memory|bad_alloc|Cannot allocate memory"
)
