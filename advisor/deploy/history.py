"""A deployment's recoveries: what failed, what was given up, and which steps led to the plan that runs."""

from __future__ import annotations

from pathlib import Path

from advisor.deploy import lowering, statefile
from advisor.facts.recovery import History, Recovery


def read(folder: Path) -> tuple[Recovery, ...]:
    """The entries, oldest first; none where there is no history that can be trusted."""
    try:
        return statefile.read(folder / lowering.HISTORY_FILE, History).entries
    except (FileNotFoundError, statefile.Untrusted):
        return ()


def add(folder: Path, entry: Recovery) -> None:
    """Append an entry; a folder that cannot be written keeps none."""
    lowering.add_history(folder, entry.to_json())


def proposed(folder: Path, plan_id: str) -> Recovery | None:
    """The last entry, where it proposes the plan of that id."""
    entries = read(folder)
    last = entries[-1] if entries else None
    return last if last is not None and last.outcome == "proposed" and last.to_plan == plan_id else None


def steps_to(folder: Path, plan_id: str) -> tuple[Recovery, ...]:
    """The steps that were taken one after the other until the plan of that id, oldest first."""
    chain: list[Recovery] = []
    wanted: str | None = plan_id
    for entry in reversed(read(folder)):
        if entry.outcome == "taken" and entry.to_plan == wanted:
            chain.append(entry)
            wanted = entry.from_plan
    return tuple(reversed(chain))
