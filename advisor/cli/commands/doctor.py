"""``advisor doctor``."""

from __future__ import annotations

from pathlib import Path

from ..command import command
from ..options import option
from ..params import NEW_PATH
from ..run import Run


@command(
    "doctor",
    "advisor doctor",
    "advisor doctor --bundle support.tar.gz     # for whoever helps; without keys, tokens and names",
)
@option(
    "--bundle", type=NEW_PATH, metavar="FILE", help="Also write what somebody else needs to see into FILE (.tar.gz)."
)
def doctor(run: Run, bundle: Path | None) -> int:
    """Check that advisor can do its work here. Exit code 5: something is wrong with this machine."""
    from advisor import api

    from ..views import checks as view

    found = api.doctor(settings=run.settings)
    written = api.support_bundle(bundle, settings=run.settings) if bundle is not None else None
    return view.report(run, found, bundle=None if written is None else str(written))
