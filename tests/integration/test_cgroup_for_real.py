"""A real control group with limits, and what the probe sees inside.

Making a group takes root, or a group that was delegated to the user. Where none can be made the test fails and says
so: run it as root, or under ``systemd-run --user --scope -p Delegate=yes``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from advisor.probes import cgroup
from advisor.probes.source import LiveSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
LIMIT = 2 << 30
INSIDE = 'for folder in $FOLDERS; do echo $$ > "$folder/cgroup.procs" || exit 99; done; exec "$@"'


def make(parent: str, settings: dict[str, str]) -> Path:
    """A group below ``parent`` with these settings.

    Raises:
        OSError: it cannot be made here.
    """
    folder = Path(parent) / f"advisor-test-{os.getpid()}"
    folder.mkdir()
    try:
        for name, value in settings.items():
            (folder / name).write_text(value)
    except OSError:
        folder.rmdir()
        raise
    return folder


def made() -> list[Path]:
    """Groups with a limit of 2 GiB and half a CPU, one a hierarchy."""
    groups = cgroup.walk(LiveSource())
    if groups.v1["memory"]:
        found = [make(groups.v1["memory"][0][0], {"memory.limit_in_bytes": str(LIMIT)})]
        try:
            quota = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}
            return [*found, make(groups.v1["cpu"][0][0], quota)]
        except OSError:
            found[0].rmdir()
            raise
    limits = {"memory.max": str(LIMIT), "cpu.max": "50000 100000"}
    problem: OSError | None = None
    # Controllers reach down only from a group without processes of its own, so one further up may be the place.
    for parent in groups.v2[0] if groups.v2 else ():
        try:
            (Path(parent) / "cgroup.subtree_control").write_text("+memory +cpu")
            return [make(parent, limits)]
        except OSError as e:
            problem = e
    raise problem or FileNotFoundError("no control groups are mounted")


@pytest.fixture
def limited() -> Iterator[list[Path]]:
    """Groups that are taken away again."""
    try:
        folders = made()
    except OSError as e:
        pytest.fail(f"No control group can be made here ({e}). Run this test as root or in a delegated group.")
    yield folders
    for folder in folders:
        folder.rmdir()


def test_the_probe_sees_the_limits_of_its_own_group(limited: list[Path]) -> None:
    done = subprocess.run(
        ["sh", "-c", INSIDE, "sh", sys.executable, "-m", "advisor", "probe", "--json"],
        env={**os.environ, "FOLDERS": " ".join(map(str, limited))},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    host = json.loads(done.stdout)["data"]["machine"]["host"]
    assert host["memory"]["limit_bytes"] == LIMIT
    assert 0 < host["memory"]["available_bytes"] <= LIMIT < host["memory"]["total_bytes"]
    assert host["cpu"]["cores_granted"] == 0.5
