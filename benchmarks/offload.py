"""Memory by device and the number of layers, predicted and as llama.cpp does it, on a software Vulkan device.

``python benchmarks/run.py offload``. Speed on such a device means nothing, so none is measured; every load has a limit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from advisor import settings as settings_  # noqa: E402
from advisor.cost.offload import engine_buffers  # noqa: E402
from advisor.errors import AdvisorError  # noqa: E402
from advisor.execute.envs import ensure  # noqa: E402
from advisor.execute.offload import ENV, Offload, Text  # noqa: E402
from advisor.execute.texts import verification_text  # noqa: E402
from advisor.facts.plan import Settings  # noqa: E402
from tests.engine.vulkan import real_file  # noqa: E402
from tests.support import lavapipe  # noqa: E402
from tests.support.offloading import (  # noqa: E402
    LIMIT,
    MACHINE,
    MIB,
    File,
    asked_layers,
    most_that_load,
    planned_layers,
    predict,
)

LAYERS = (1, 8, 16, 24, 30, 31)
CONTEXTS = ((512, 512, "f16"), (8192, 512, "f16"), (8192, 128, "q8_0"))
ROOMS = ((90, 4096, 128), (140, 4096, 128), (160, 8192, 128), (260, 8192, 128), (200, 4096, 512), (330, 8192, 512))


def offload(say: Callable[[str], None]) -> None:
    """All three tables: memory by device, layers that load, perplexity with layers on the device."""
    home = Path(os.environ.get("ADVISOR_TEST_HOME", str(REPO / ".advisor" / "tests")))
    home.mkdir(parents=True, exist_ok=True)
    variables = lavapipe.variables(home)
    mine = settings_.load(env={**os.environ, "ADVISOR_HOME": str(home)})
    loader = Offload(
        ensure(ENV, settings=mine, variables=variables), mine.paths.logs / "offload.log", variables=variables
    )
    files = [real_file(home, fmt) for fmt in ("q8_0", "q4_k_m")]
    _memory(say, loader, files)
    _layers(say, loader, files)
    _perplexity(say, loader, files[0], mine.paths.logs / "offload.txt")


def _memory(say: Callable[[str], None], loader: Offload, files: list[File]) -> None:
    say("## Memory on the device, predicted and allocated\n")
    say("`python benchmarks/run.py offload`; SmolLM2-135M in llama.cpp b9190, MiB of the engine's own buffers.\n")
    say("| format | layers on the device | context | ubatch | cache | predicted | low | high | allocated | ratio |")
    say("|---|---|---|---|---|---|---|---|---|---|")
    for file in files:
        for context, ubatch, kind in CONTEXTS:
            for layers in LAYERS:
                wanted = Settings(context=context, ubatch=ubatch, kv_type=kind, gpu_layers=layers)
                got = loader.load(file.path, wanted, limit_bytes=LIMIT).on_device()
                told = engine_buffers(predict(file, wanted).by_device["gpu0"], MACHINE, "gpu0")
                low, value, high = (x / MIB for x in (told.low, told.value, told.high))
                say(
                    f"| {file.fmt} | {layers} | {context} | {ubatch} | {kind} | {value:.1f} | {low:.1f} | {high:.1f} "
                    f"| {got / MIB:.1f} | {told.value / got:.3f} |"
                )
    say("")


def _layers(say: Callable[[str], None], loader: Offload, files: list[File]) -> None:
    say("## Layers that the plan puts on the device, and the most that load\n")
    say("Planned: by the formulas. Asked: after the engine's dry load, which is what is launched.\n")
    say("| format | room on the device, MiB | context | ubatch | planned | asked | most that load |")
    say("|---|---|---|---|---|---|---|")
    for file in files:
        for room, context, ubatch in ROOMS:
            base = Settings(context=context, ubatch=ubatch)
            planned = planned_layers(file, base, room * MIB)
            asked = asked_layers(loader, file, base, planned, room * MIB)
            most = most_that_load(loader, file, base, max(min(planned, asked) - 2, 0), room * MIB)
            say(f"| {file.fmt} | {room} | {context} | {ubatch} | {planned} | {asked} | {most} |")
    say("")


def _perplexity(say: Callable[[str], None], loader: Offload, file: File, text: Path) -> None:
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(verification_text().text[:4000], encoding="utf-8")
    say("## Perplexity with layers on the device\n")
    say("One piece of 64 tokens, fed 16 at a time, so that the host computes its own layers.\n")
    say("| layers on the device | perplexity | largest difference of a token's log-probability |\n|---|---|---|")
    alone = Offload(
        loader.env, loader.log, variables={**loader.variables, "VK_DRIVER_FILES": "", "VK_ICD_FILENAMES": ""}
    )
    first: tuple[float, ...] = ()
    for layers, how in ((0, alone), (12, loader), (31, loader)):
        wanted = Settings(context=256, batch=256, ubatch=16, threads=2, gpu_layers=layers)
        try:
            got = how.load(file.path, wanted, limit_bytes=LIMIT, text=Text(text, 1, 64))
        except AdvisorError as e:
            say(f"| {layers} | {e.code} | |")
            continue
        first = first or got.logprobs
        most = max(abs(a - b) for a, b in zip(got.logprobs, first, strict=True))
        say(f"| {layers} | {got.perplexity:.4f} | {most:.4f} |")
    say("")
