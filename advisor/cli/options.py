"""Options that several commands share. Each group's parameters have the names of the library's keywords."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import click

from .command import Option
from .params import (
    BANDWIDTH,
    COUNT,
    DURATION,
    EXISTING,
    FORMAT,
    GOAL,
    KV_TYPE,
    METHOD,
    NEW_PATH,
    QUANTIZER,
    RUNTIME,
    SIZE,
    TEXT,
    TOKENS,
)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_wish: Final = partial(click.option, cls=Option, section="What it is for")
_choice: Final = partial(click.option, cls=Option, section="Take this only")
_machine: Final = partial(click.option, cls=Option, section="The machine to plan for")
_make: Final = partial(click.option, cls=Option, section="How the weights are made")
_other: Final = partial(click.option, cls=Option)


def _machine_options(*, hidden: bool = False) -> tuple[Any, ...]:
    """``up`` takes them, too, to say why it does not: they stand in the help of the other commands only."""
    return (
        _machine(
            "--hardware",
            multiple=True,
            metavar="NAME[:COUNT]",
            help="Hardware by name (rtx-3090:2, cpu, 'Apple M2 Ultra (76)'); repeat it for a mix. See `hardware list`.",
            hidden=hidden,
        ),
        _machine(
            "--memory",
            type=SIZE,
            help="Host memory (24GB, 24GiB); the one memory where it is unified.",
            hidden=hidden,
        ),
        _machine("--vram", type=SIZE, help="Memory of each device.", hidden=hidden),
        _machine("--bandwidth", type=BANDWIDTH, help="Memory bandwidth (1008GB/s).", hidden=hidden),
        _machine(
            "--total/--free",
            default=False,
            help="Plan with all memory, as if nothing ran there; or with what is free now (the default).",
            hidden=hidden,
        ),
    )


_CHOICE: Final = (
    _choice("--method", type=METHOD, help="Quantization method (gguf, awq, gptq, fp8, none ...)."),
    _choice("--format", type=FORMAT, help="Format of the weights (q4_k_m, w4a16-g128, fp8 ...)."),
    _choice("--runtime", type=RUNTIME, help="Runtime that serves it (llama.cpp, vllm ...)."),
    _choice("--quantizer", type=QUANTIZER, help="Library that makes it (llama.cpp, llmcompressor ...)."),
    _choice("--kv-type", type=KV_TYPE, help="Type of the KV cache (f16, q8_0 ...)."),
    _choice("--threads", type=COUNT, help="Threads on the host; the granted cores by default."),
)
_WISHES: Final = (
    _wish("--goal", type=GOAL, default="chat", show_default=True, help="What counts; see `goals list`."),
    _wish("--context", type=TOKENS, help="Tokens of context of each conversation (8192, 32k)."),
    _wish("--parallel", type=COUNT, help="Requests served at the same time."),
    _wish("--min-tps", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Decode at least N tokens/s."),
    _wish("--max-memory", type=SIZE, help="Use at most this much memory in all (12GiB)."),
    _wish(
        "--min-quality",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="SHARE",
        help="Keep at least this share of the original's quality (0.98).",
    ),
    _wish("--within", type=DURATION, help="Be ready within this time (90s, 10m, 1h)."),
    _wish("--no-download", is_flag=True, help="Use only what is here already."),
)
_MAKING: Final = (
    _make(
        "--bits", type=click.IntRange(2, 16), metavar="N", help="Bits of a weight (2, 3, 4, 8 as the method allows)."
    ),
    _make("--group-size", type=COUNT, help="Weights that share a scale (128, 64, 32)."),
    _make("--desc-act/--no-desc-act", default=None, help="GPTQ: the most active channels first."),
    _make("--sym/--no-sym", default=None, help="Symmetric weights, without zero points."),
    _make(
        "--damp",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="SHARE",
        help="GPTQ: damping of the Hessian (0.01).",
    ),
    _make(
        "--calibration",
        type=TEXT,
        help="Calibrate on this text: a file (text, or JSON lines with text, prompt and response, or messages), "
        "wikitext-2, or hf:datasets/OWNER/NAME/FILE.",
    ),
    _make("--samples", type=COUNT, help="Calibrate on so many samples."),
    _make("--smoothing", type=click.FloatRange(0, 1), metavar="SHARE", help="W8A8: SmoothQuant's strength (0.8)."),
    _make(
        "--static-activations/--dynamic-activations",
        default=None,
        help="FP8: scales of activations fixed by calibration, or one for each token (the default).",
    ),
    _make("--double-quant/--no-double-quant", default=None, help="NF4: quantize the scales once more (the default)."),
    _make("--layout", type=click.Choice(("gemm", "gemv")), help="AutoAWQ's layout of the weights."),
    _make("--adapter", type=EXISTING, help="Merge this LoRA adapter (a folder) into the weights first."),
)
_REPLAY: Final = (
    _machine("--machine", type=EXISTING, help="A machine recorded by `probe --record` or `probe --json`."),
    _other("--model-facts", type=EXISTING, help="Read the model's facts from this file instead."),
)
_TOP: Final = (
    _other(
        "--top", type=COUNT, help="Show the best N plans (5; 12 with --plot), or without MODEL the best N models (10)."
    ),
)


def _stack(options: tuple[Any, ...]) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


option: Final = _other
plot_option: Final = partial(_other, "--plot", type=NEW_PATH, metavar="FILE")
machine_options = _stack((*_machine_options(), _REPLAY[0]))
making_options = _stack(_MAKING)
planning_options = _stack((*_WISHES, *_CHOICE, *_MAKING, *_machine_options(hidden=True)))
compare_options = _stack((*_WISHES, *_CHOICE, *_MAKING, *_machine_options()))
recommend_options = _stack((*_WISHES, *_CHOICE, *_MAKING, *_machine_options(), *_REPLAY, *_TOP))
