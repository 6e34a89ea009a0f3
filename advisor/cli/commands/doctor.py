"""``advisor doctor``."""

from __future__ import annotations

from ..command import command
from ..run import Run


@command("doctor")
def doctor(run: Run) -> int:
    """Check that advisor can do its work here. Exit code 5: something is wrong with this machine."""
    from advisor import api

    from ..views import checks as view

    return view.report(run, api.doctor(settings=run.settings))
