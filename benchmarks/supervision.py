"""What supervising one idle deployment costs: CPU time and resident memory of advisor's own processes beside it.

``python benchmarks/supervision.py [SECONDS] [--add FILE]``. Bars: 1 % of a core, 20 MB.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

import msgspec  # noqa: E402

from advisor.deploy import cpu_time  # noqa: E402
from advisor.deploy.memory import resident  # noqa: E402
from advisor.deploy.process_table import SHIM_MARK, marked  # noqa: E402
from tests.unit.deploy.rig import Rig  # noqa: E402


def supervision(say: Callable[[str], None], seconds: float = 60.0) -> tuple[float, float]:
    """Print and return the share of a core and the bytes resident."""
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder) / "idle")
        try:
            rig.deployments.launch(rig.spec(poll_s=0.25, backoff_s=1.0))
            uuid = msgspec.json.decode((rig.folder() / "run.json").read_bytes())["uuid"]
            pids = tuple(p.pid for p in marked(SHIM_MARK, uuid))
            before, begun = cpu_time.spent(pids), time.monotonic()
            time.sleep(seconds)
            after, took = cpu_time.spent(pids), time.monotonic() - begun
            memory = resident(pids)
        finally:
            rig.clean_up()
    assert before is not None
    assert after is not None
    assert memory is not None
    share = (after - before) / took
    say("## Supervision\n")
    say(
        f"`python benchmarks/supervision.py`: {len(pids)} processes of advisor's own beside one idle server for "
        f"{took:.0f} s: {share:.2%} of a core, {float(memory.value) / 1e6:.1f} MB resident ({memory.source}).\n"
    )
    return share, float(memory.value)


def main() -> int:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("seconds", type=float, nargs="?", default=60.0)
    p.add_argument("--add", type=Path, help="append what is printed to this page")
    asked = p.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    share, size = supervision(say, asked.seconds)
    if asked.add is not None:
        with asked.add.open("a", encoding="utf-8") as f:
            f.write("\n" + "\n".join(lines))
    return int(share > 0.01 or size > 20e6)


if __name__ == "__main__":
    sys.exit(main())
