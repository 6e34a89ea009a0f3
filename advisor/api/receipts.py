"""The receipt: what was predicted beside what was measured on the running server."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from advisor.api import daemons
from advisor.facts.base import loads
from advisor.facts.plan import Plan
from advisor.facts.quantity import Quantity
from advisor.facts.results import Deployment, Gate, Receipt, ReceiptError, Side
from advisor.planner.candidate import LLAMA_ENGINES

if TYPE_CHECKING:
    from advisor.deploy.manager import Deployments

RECEIPT_FILE = "receipt.json"
# Enough tokens after the prompt for a steady decode rate, few enough for a slow machine.
_DECODE_TOKENS = 64


def ratio(predicted: Quantity | None, measured: Quantity | None) -> float | None:
    """Predicted divided by measured, ``None`` where either is unknown or nothing was measured."""
    if predicted is None or measured is None or not measured.value:
        return None
    return round(float(predicted.value) / float(measured.value), 4)


def prompt_tokens(plan: Plan) -> int:
    """Tokens of the measuring prompt: a full ubatch, or what the context has room for."""
    return min(plan.settings.ubatch, max(32, plan.settings.context // plan.settings.parallel - _DECODE_TOKENS))


def _cpu_share(plan: Plan, used: float | None, spent: float | None, wall: float) -> float | None:
    """CPU time by threads x wall time. llama.cpp's threads spin while they wait, so of it the figure means that cores
    were lacking; of other runtimes, and of models on devices, it means nothing."""
    threads = plan.settings.threads
    if used is None or spent is None or not threads or wall <= 0:
        return None
    if plan.runtime not in LLAMA_ENGINES or plan.devices not in ((), ("host",)):
        return None
    return round(min(1.0, max(0.0, spent - used) / (threads * wall)), 3)


def measure(
    deployments: Deployments,
    deployment: Deployment,
    plan: Plan,
    *,
    gate: Gate | None,
    notes: tuple[str, ...],
    api_key: str | None,
) -> Receipt:
    """Send a prompt of at least one full ubatch, watch the processes' memory meanwhile, and put both sides together.

    Raises:
        AdvisorError: ``server-failed``, ``server-timeout``, ``smoke-failed``.
    """
    from advisor.deploy import cpu_time
    from advisor.deploy.measure import measure as measure_speed
    from advisor.deploy.spec import now

    used, begun = cpu_time.spent(deployments.pids(deployment.name)), time.monotonic()
    with deployments.sample_memory(deployment.name) as sampler:
        speed = measure_speed(
            deployment.openai_base_url,
            deployment.model,
            prompt_tokens=prompt_tokens(plan),
            max_tokens=_DECODE_TOKENS,
            repeat=2,
            api_key=api_key,
        )
    spent, wall = cpu_time.spent(deployments.pids(deployment.name)), time.monotonic() - begun
    own = plan.runtime != "ollama"  # what runs here only passes requests on: its memory is not the model's
    if not own:
        notes = (*notes, *daemons.memory_note(deployment.url))
    measured = Side(
        memory=sampler.peak if own else None,
        decode=speed.decode,
        prefill=speed.prefill,
        start=deployments.start_seconds(deployment.name),
    )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if plan.speed.decode is not None and speed.decode is not None and speed.decode.value < plan.speed.decode.low:
        busy = f"; the load average was {load:.1f} then" if load is not None else ""
        notes = (*notes, f"Decoding was measured below the predicted range{busy}.")
    predicted = Side(
        memory=plan.memory.total, decode=plan.speed.decode, prefill=plan.speed.prefill, start=plan.time.start
    )
    return Receipt(
        predicted=predicted,
        measured=measured,
        error=ReceiptError(
            memory_ratio=ratio(predicted.memory, measured.memory),
            decode_ratio=ratio(predicted.decode, measured.decode),
            prefill_ratio=ratio(predicted.prefill, measured.prefill),
            start_ratio=ratio(predicted.start, measured.start),
        ),
        quality_gate=gate,
        notes=notes,
        measured_at=now(),
        cpu_share=_cpu_share(plan, used, spent, wall),
    )


def save(folder: Path, receipt: Receipt) -> None:
    """Keep the receipt beside the deployment's state.

    Raises:
        AdvisorError: ``not-writable`` or ``disk-full``: the folder cannot be written.
    """
    from advisor.execute.disk import write_atomic

    write_atomic(folder / RECEIPT_FILE, receipt.dumps())


def forget(folder: Path) -> None:
    """Remove the receipt of an earlier launch: it says nothing of the next one."""
    (folder / RECEIPT_FILE).unlink(missing_ok=True)


def load(folder: Path) -> Receipt | None:
    """The receipt of a deployment, or ``None`` where there is none that can be read."""
    try:
        return loads(Receipt, (folder / RECEIPT_FILE).read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
