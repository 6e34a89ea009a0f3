"""Options that several commands share. Each group's parameters have the names of the library's keywords."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from .params import BANDWIDTH, COUNT, DURATION, EXISTING, FORMAT, GOAL, KV_TYPE, METHOD, RUNTIME, SIZE, TOKENS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_MACHINE: Final = (
    click.option(
        "--hardware",
        multiple=True,
        metavar="NAME[:COUNT]",
        help="Plan for this hardware instead (rtx-3090:2, cpu, 'Apple M2 Ultra (76)'); repeatable.",
    ),
    click.option("--memory", type=SIZE, help="Host memory to plan with (24GB, 24GiB); unified memory where it is one."),
    click.option("--vram", type=SIZE, help="Memory of the device to plan with."),
    click.option("--bandwidth", type=BANDWIDTH, help="Memory bandwidth to plan with (1008GB/s)."),
)
_CHOICE: Final = (
    click.option("--method", type=METHOD, help="Take this quantization method only."),
    click.option("--format", type=FORMAT, help="Take this format only (q4_k_m, w4a16-g128, fp8 ...)."),
    click.option("--runtime", type=RUNTIME, help="Take this runtime only."),
    click.option("--quantizer", metavar="NAME", help="Make it with this library only."),
    click.option("--kv-type", type=KV_TYPE, help="Store the KV cache in this type."),
)
_WISHES: Final = (
    click.option("--goal", type=GOAL, default="chat", show_default=True, help="What it is for; see `goals list`."),
    click.option("--context", type=TOKENS, help="Tokens of context of each conversation (8192, 32k)."),
    click.option("--parallel", type=COUNT, help="Requests served at the same time."),
    click.option("--min-tps", type=click.FloatRange(min=0, min_open=True), help="Decode at least so many tokens/s."),
    click.option("--max-memory", type=SIZE, help="Use at most this much memory in all."),
    click.option(
        "--min-quality",
        type=click.FloatRange(0, 1, min_open=True),
        help="Keep at least this share of the original's quality (0.98).",
    ),
    click.option("--within", type=DURATION, help="Be ready within this time (90s, 10m, 1h)."),
    click.option("--no-download", is_flag=True, help="Use only what is here already."),
)
_REPLAY: Final = (
    click.option("--machine", type=EXISTING, help="Plan for a recorded machine (a folder or a file of `probe`)."),
    click.option("--model-facts", type=EXISTING, help="Read the model's facts from a file instead."),
)
_TOP: Final = (click.option("--top", type=COUNT, default=5, show_default=True, help="Show so many plans."),)


def _stack(options: tuple[Any, ...]) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


machine_options = _stack((*_MACHINE, _REPLAY[0]))
planning_options = _stack((*_WISHES, *_CHOICE, *_MACHINE))
recommend_options = _stack((*_WISHES, *_CHOICE, *_MACHINE, *_REPLAY, *_TOP))
