"""Runtime memory of models of many architectures, predicted and as llama.cpp itself would allocate it."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from advisor import settings as settings_
from advisor.execute.envs import ensure
from advisor.execute.oracle import DryLoad
from tests.support.architectures import FIXTURES, MIB, Compared, compare, facts

CACHE_BAR, WHOLE_BAR = 0.02, 0.05
_PARTS = ("kv", "state", "compute", "whole")
_TITLES = {"kv": "cache", "state": "recurrent state", "compute": "work buffer", "whole": "whole"}


def memory(say: Callable[[str], None]) -> None:
    """Print a Markdown table of cells ``predicted / engine`` in MiB, and the worst and median errors.

    Raises:
        AdvisorError: the environment ``llama.cpp`` cannot be had.
    """
    say("## Runtime memory of many architectures, without weights\n")
    say(
        "Each line is a header-only file that llama.cpp loads without allocating; predicted / engine, in MiB. The whole"
    )
    say("is weights, cache, state, work buffer and output; the engine takes a header only with exactly its tensors.\n")
    say(
        "| model | architecture | format | context | slots | cache type | cache | state | work buffer | whole | error |"
    )
    say("|---|---|---|---|---|---|---|---|---|---|---|")
    env = ensure("llama.cpp", settings=settings_.load())
    found: list[dict[str, Compared]] = []
    refused: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        engine = DryLoad(env, Path(folder) / "dry.log")
        for fixture in FIXTURES:
            parts = compare(fixture, engine)
            if parts is None:
                refused.append(fixture.model)
                continue
            found.append(parts)
            s = fixture.settings
            cells = " | ".join(_cell(parts[part]) for part in _PARTS)
            say(
                f"| {fixture.model} | {facts(fixture.model).architecture} | {fixture.fmt} | {s.context} "
                f"| {s.parallel} | {s.kv_type} | {cells} | {parts['whole'].error:+.2%} |"
            )
    _verdict(say, found, refused)


def _cell(part: Compared) -> str:
    if not part.predicted and not part.engine:
        return "-"
    return f"{part.predicted / MIB:,.2f} / {part.engine / MIB:,.2f}"


def _verdict(say: Callable[[str], None], found: list[dict[str, Compared]], refused: list[str]) -> None:
    if refused:
        say("\nThe engine did not take: " + ", ".join(refused) + ".")
    if not found:
        say("\nNothing was compared.")
        return
    say("\n| part | lines | median error | worst error |")
    say("|---|---|---|---|")
    worst: dict[str, float] = {}
    for part in _PARTS:
        errors = [abs(parts[part].error) for parts in found if parts[part].engine]
        worst[part] = max(errors, default=0.0)
        say(f"| {_TITLES[part]} | {len(errors)} | {statistics.median(errors or [0.0]):.2%} | {worst[part]:.2%} |")
    met = max(worst["kv"], worst["state"]) <= CACHE_BAR and worst["whole"] <= WHOLE_BAR and not refused
    say(
        f"\nBar: cache and state within {CACHE_BAR:.0%} of the engine, the whole within {WHOLE_BAR:.0%}, on at least "
        f"20 lines: {'met' if met and len(found) >= 20 else 'missed'}, on {len(found)} lines."
    )


if __name__ == "__main__":
    memory(print)
