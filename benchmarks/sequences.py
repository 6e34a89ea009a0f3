"""Random sequences of launch, end, restart, kill and cancel over deployments: ``python benchmarks/sequences.py``.

``--count N`` sequences (1000), ``--from SEED``. Ends with 1 at the first that leaves a process, a port or half a file.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

from tests.support.sequences import Sequence  # noqa: E402
from tests.unit.deploy.rig import Rig  # noqa: E402


def one(seed: int) -> list[str]:
    """Run the sequence of a seed; what was done."""
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder) / "any order", first_port=21000 + seed * 4 % 30000)
        try:
            done = Sequence(rig, seed)
            done.run()
            return done.log
        finally:
            rig.clean_up()


def main() -> int:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--count", type=int, default=1000)
    p.add_argument("--from", dest="first", type=int, default=0)
    p.add_argument("--jobs", type=int, default=6)
    p.add_argument("--add", type=Path, help="append what is printed to this page")
    asked = p.parse_args()
    seen: collections.Counter[str] = collections.Counter()
    with ThreadPoolExecutor(asked.jobs) as pool:
        for i, log in enumerate(pool.map(one, range(asked.first, asked.first + asked.count)), 1):
            seen.update(line.split(" ")[0] for line in log[1:])
            if i % 100 == 0:
                print(f"{i} sequences", file=sys.stderr, flush=True)
    told = ", ".join(f"{n} {what}" for what, n in seen.most_common())
    text = (
        "## Random sequences\n\n"
        f"`python benchmarks/sequences.py`: {asked.count} sequences: nothing left running, listening or half written. "
        f"{told}.\n"
    )
    print(text)
    if asked.add is not None:
        with asked.add.open("a", encoding="utf-8") as f:
            f.write("\n" + text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
