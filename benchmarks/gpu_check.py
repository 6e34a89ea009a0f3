"""``make gpu-check``: what can only be seen where a GPU is. Prints what it found; ends with 5 where there is none."""

from __future__ import annotations

import sys

import advisor
from advisor.facts.words import EXIT_FAILED, EXIT_MACHINE

MODEL = "meta-llama/Llama-3.1-8B-Instruct"


def main() -> int:
    """Probe the devices, hold their figures against sanity and profile, and plan for them."""
    report = advisor.probe()
    usable = [d for d in report.machine.devices if d.unusable is None]
    for device in report.machine.devices:
        print(device.to_json())
    if not usable:
        print("no usable GPU here", file=sys.stderr)
        return EXIT_MACHINE
    wrong = []
    for device in usable:
        memory = device.memory
        if not memory.total_bytes and not device.unified_memory:
            wrong.append(f"{device.id}: total memory unknown")
        if memory.free_bytes is not None and memory.total_bytes is not None and memory.free_bytes > memory.total_bytes:
            wrong.append(f"{device.id}: more memory free than there is")
        if device.vendor == "nvidia" and device.compute_capability is None:
            wrong.append(f"{device.id}: no compute capability")
        if device.profile is None:
            wrong.append(f"{device.id}: {device.name} has no profile, so its bandwidth is unknown")
    plans = advisor.recommend(MODEL).plans
    on_gpu = [p for p in plans if any(k.startswith("gpu") for k in p.memory.by_device)]
    for plan in plans:
        print(plan.rank, plan.status, plan.method, plan.format, plan.runtime, dict(plan.memory.by_device))
    if not on_gpu:
        wrong.append(f"no plan for {MODEL} uses the GPU")
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return EXIT_FAILED if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
