"""``advisor probe``."""

from __future__ import annotations

from pathlib import Path

from ..command import command
from ..options import option
from ..params import EXISTING, NEW_PATH
from ..run import Run


@command(
    "probe",
    "advisor probe --measure",
    "advisor probe --record ./this-machine   # then: advisor recommend 8B --machine ./this-machine",
)
@option("--measure", is_flag=True, help="Measure memory, the disk of the store, and devices that can be used.")
@option("--record", type=NEW_PATH, metavar="DIR", help="Write what was read to a new folder that can be replayed.")
@option("--machine", type=EXISTING, help="Show a recorded machine instead of this one.")
def probe(run: Run, measure: bool, record: Path | None, machine: Path | None) -> None:
    """Show what this machine has for running models.

    Memory is what this process may really use: limits of containers count.
    """
    from advisor import api
    from advisor.facts.schemas import ProbeData

    from ..views import machine as view

    report = api.probe(measure=measure, record=record, machine=machine, settings=run.settings)
    run.sink.result(
        run.command,
        ProbeData(machine=report.machine, measured=report.measured),
        human=lambda page: view.machine(page, report.machine, report.measured, verbose=run.verbose),
        quiet=view.bare(report.machine),
        warnings=report.warnings,
    )
    if record is not None:
        run.sink.note(f"Recorded in {record}.")
