"""Memory that runs out under traffic, and memory that is nearly used up: the kernel's counters, and what follows."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from advisor.backends.causes import SAID_BY_RUNTIMES
from advisor.deploy import history, watch
from advisor.deploy.lowering import HISTORY_FILE, Lowering, add_history
from advisor.deploy.registry import nearly_full
from advisor.deploy.spec import Fallback, LaunchSpec
from advisor.deploy.watch import Watch, device_level
from advisor.probes import group_memory
from advisor.probes.group_memory import Kills, Level, groups, host, nearest, tightest_group
from tests.unit.deploy.rig import Rig, wait_for

MIB = 1 << 20


def spec(rig: Rig, mode: str, steps: int = 2, **fields: Any) -> LaunchSpec:
    """A server with steps that only change its name for the plan."""
    plain = rig.spec()
    lower = tuple(
        Fallback(
            plan_id=f"p-0000a{n}",
            change=f"context {8192 >> (n - 1)} -> {8192 >> n}",
            given_up=f"conversations of {8192 >> n} tokens at most",
            device="host",
            frees_bytes=n * 100 * MIB,
            argv=(*plain.argv, "--allocate", str(n)),
            env=plain.env,
        )
        for n in range(1, steps + 1)
    )
    return rig.spec(port=plain.port, recover=mode, fallbacks=lower, oom_patterns=SAID_BY_RUNTIMES, **fields)


def run_out(port: int) -> None:
    """A request after which the server says that memory ran out, and ends."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/out-of-memory", timeout=5).read()


def again(rig: Rig, restarts: int) -> None:
    wait_for(lambda: rig.status().restarts == restarts and rig.state() == "ready", f"restart {restarts}")


def test_auto_takes_one_step_after_the_other_and_writes_them_down(rig: Rig) -> None:
    launched = rig.deployments.launch(spec(rig, "auto"))
    run_out(launched.port)
    again(rig, 1)
    found = rig.deployments.get("one")
    assert found.plan_id == "p-0000a1"
    (step,) = found.recovered
    assert (step.outcome, step.from_plan, step.to_plan) == ("taken", "p-1", "p-0000a1")
    assert step.change == "context 8192 -> 4096" and step.given_up == "conversations of 4096 tokens at most"
    assert (step.diagnosis.cause, step.diagnosis.when, step.diagnosis.exit_code) == ("out-of-memory", "traffic", 1)
    assert any("insufficient memory" in line for line in step.diagnosis.evidence)
    run_out(launched.port)
    again(rig, 2)
    found = rig.deployments.get("one")
    assert found.plan_id == "p-0000a2"
    assert [s.to_plan for s in found.recovered] == ["p-0000a1", "p-0000a2"]
    assert rig.deployments.spec("one").argv[-2:] == ("--allocate", "2")
    assert rig.deployments.spec("one").fallbacks == ()
    # With no step left it is started again once, and then it ends and says so.
    run_out(launched.port)
    again(rig, 3)
    run_out(launched.port)
    wait_for(lambda: rig.state() == "failed", "the end")
    assert "no step is left" in (rig.deployments.get("one").reason or "")
    log = "\n".join(rig.deployments.logs("one", 500))
    assert "recovered by context 8192 -> 4096 (given up: conversations of 4096 tokens at most)" in log


@pytest.mark.parametrize("mode", ["ask", "never"])
def test_without_a_yes_it_is_started_again_once_and_then_says_what_would_be_next(rig: Rig, mode: str) -> None:
    launched = rig.deployments.launch(spec(rig, mode))
    run_out(launched.port)
    again(rig, 1)
    assert rig.deployments.get("one").plan_id == "p-1"
    run_out(launched.port)
    wait_for(lambda: rig.state() == "failed", "the end")
    found = rig.deployments.get("one")
    assert "context 8192 -> 4096" in (found.reason or "")
    assert "advisor up p-0000a1 --name one" in (found.reason or "")
    assert found.recovered == ()
    proposed = history.proposed(rig.folder(), "p-0000a1")
    assert (proposed is not None) is (mode == "ask")


def test_other_deaths_take_no_step(rig: Rig) -> None:
    launched = rig.deployments.launch(spec(rig, "auto"))
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{launched.port}/die", timeout=5).read()
    again(rig, 1)
    assert rig.deployments.get("one").plan_id == "p-1"
    assert rig.status().out_of_memory == ()
    assert (rig.status().peak_bytes or 0) > MIB


def lowering(folder: Path, **spec_: Any) -> Lowering:
    steps = [
        {"plan_id": f"p-{n}", "change": f"c{n}", "given_up": f"g{n}", "device": "host", "frees_bytes": n * MIB,
         "argv": [str(n)], "env": {}}
        for n in (10, 20)
    ]  # fmt: skip
    return Lowering(folder, {"name": "one", "plan_id": "p-0", "argv": ["0"], "env": {}, "fallbacks": steps, **spec_})


def test_a_step_frees_more_than_was_missing(tmp_path: Path) -> None:
    found = lowering(tmp_path, recover="auto")
    assert (found.next_step(None, None) or {})["plan_id"] == "p-10"
    assert (found.next_step(100 * MIB, 115 * MIB) or {})["plan_id"] == "p-20"
    assert (found.next_step(100 * MIB, 900 * MIB) or {})["plan_id"] == "p-20"
    assert lowering(tmp_path, fallbacks=[]).next_step(None, None) is None


def test_a_kill_counts_only_with_the_kernels_word(tmp_path: Path) -> None:
    found = lowering(tmp_path, oom_patterns=list(SAID_BY_RUNTIMES))
    assert found.evidence(0, killed=True) == []
    assert found.evidence(1, killed=False) == []
    assert len(found.evidence(1, killed=True)) == 1


def test_only_what_the_server_said_since_its_start_is_evidence(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_bytes(
        b"std::bad_alloc\n[advisor 2026] server started, pid 7\nhello\n[advisor 2026] out of memory: std::bad_alloc\n"
    )
    found = lowering(tmp_path, oom_patterns=list(SAID_BY_RUNTIMES))
    assert found.evidence(0, killed=False) == []
    with (tmp_path / "server.log").open("ab") as f:
        f.write(b"\x1b[31mcudaMalloc failed: out of memory\x1b[0m\n" * 20)
    seen = found.evidence(0, killed=False)
    assert 0 < len(seen) <= 5
    assert "\x1b" not in "".join(seen)


def test_a_damaged_history_gives_way(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / HISTORY_FILE).write_text("{")
    assert history.read(tmp_path) == ()
    for n in range(60):
        add_history(tmp_path, {"at": str(n)})
    kept = json.loads((tmp_path / HISTORY_FILE).read_bytes())["entries"]
    assert len(kept) == 50 and kept[-1] == {"at": "59"}


# -- the kernel's files ----------------------------------------------------------------------------------------------


def tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V2 = {
    "proc/7/cgroup": "0::/a/b\n",
    "proc/meminfo": "MemTotal: 1024 kB\nMemAvailable: 512 kB\n",
    "proc/vmstat": "oom_kill 5\n",
    "sys/cgroup.procs": "",
    "sys/a/cgroup.procs": "",
    "sys/a/memory.max": "1000\n",
    "sys/a/memory.current": "990\n",
    "sys/a/memory.stat": "inactive_file 40\n",
    "sys/a/b/cgroup.procs": "",
    "sys/a/b/memory.max": "max\n",
    "sys/a/b/memory.current": "300\n",
    "sys/a/b/memory.events": "low 0\noom 3\noom_kill 2\n",
}
V1 = {
    "proc/7/cgroup": "4:memory:/x\n0::/\n",
    "proc/meminfo": "MemTotal: 1024 kB\nMemAvailable: 512 kB\n",
    "proc/vmstat": "nr_free 3\noom_kill 1\n",
    "sys/unified/cgroup.procs": "",
    "sys/memory/cgroup.procs": "",
    "sys/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/memory/memory.usage_in_bytes": "5000\n",
    "sys/memory/x/cgroup.procs": "",
    "sys/memory/x/memory.limit_in_bytes": "2000\n",
    "sys/memory/x/memory.usage_in_bytes": "1500\n",
    "sys/memory/x/memory.stat": "total_inactive_file 500\n",
    "sys/memory/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
}


def test_groups_of_version_2(tmp_path: Path) -> None:
    tree(tmp_path, V2)
    at = {"proc": tmp_path / "proc", "root": tmp_path / "sys"}
    assert [g.folder.name for g in groups(7, **at)] == ["b", "a", "sys"]
    assert tightest_group(7, **at) == Level("cgroup v2 memory.max", 950, 1000)
    assert host(proc=at["proc"]) == Level("the host's memory", 512 * 1024, 1024 * 1024)
    level = nearest(7, **at)
    assert level is not None and level.where == "cgroup v2 memory.max" and level.share == 0.95
    kills = Kills(7, **at)
    (tmp_path / "proc/vmstat").write_text("oom_kill 9\n")
    assert kills.since() == 0  # others were killed
    (tmp_path / "sys/a/b/memory.events").write_text("oom_kill 4\n")
    assert kills.since() == 2


def test_groups_of_version_1(tmp_path: Path) -> None:
    tree(tmp_path, V1)
    at = {"proc": tmp_path / "proc", "root": tmp_path / "sys"}
    assert [(g.version, g.folder.name) for g in groups(7, **at)] == [(1, "x"), (1, "memory"), (2, "unified")]
    assert tightest_group(7, **at) == Level("cgroup v1 memory.limit_in_bytes", 1000, 2000)
    kills = Kills(7, **at)
    (tmp_path / "sys/memory/x/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert kills.since() == 1


def test_without_groups_the_machine_counts(tmp_path: Path) -> None:
    tree(tmp_path, {"proc/vmstat": "oom_kill 1\n"})
    at = {"proc": tmp_path / "proc", "root": tmp_path / "sys"}
    kills = Kills(7, **at)
    assert (groups(7, **at), tightest_group(7, **at), host(proc=at["proc"]), kills.since()) == ((), None, None, 0)
    (tmp_path / "proc/vmstat").write_text("oom_kill 3\n")
    assert kills.since() == 2


# -- the watch -------------------------------------------------------------------------------------------------------


def looks(monkeypatch: pytest.MonkeyPatch, shares: list[float], *, device: bool = False) -> list[str | None]:
    """What the watch says while a memory fills and empties as given."""
    left = list(shares)
    monkeypatch.setattr(watch, "EVERY_S", 0.0)
    monkeypatch.setattr(watch, "DEVICES_EVERY_S", 0.0)
    monkeypatch.setattr(watch, "groups", lambda pid: ())
    level = Level("the memory of gpu0" if device else "the host's memory", 0, 1000 * MIB)

    def now(*_: object) -> Level:
        return level._replace(used=int(left.pop(0) * level.limit))

    monkeypatch.setattr(watch, "nearest", (lambda pid: None) if device else now)
    monkeypatch.setattr(watch, "device_level", now)
    one = Watch([{"id": "gpu0"}] if device else [])
    out = []
    for _ in shares:
        out.append(one.look(1))
        assert (one.near is not None) == (one.near is not None and one.near["near"])
    return out


def test_it_warns_once_when_memory_is_nearly_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    said = looks(monkeypatch, [0.5, 0.91, 0.95, 0.87, 0.84, 0.89, 0.92])
    assert [bool(s) for s in said] == [False, True, False, False, True, False, True]
    assert "910 of 1000 MiB of the host's memory (91 %)" in str(said[1])
    assert "no longer" in str(said[4])


def test_a_limit_lowered_since_the_last_look_is_the_one_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, V2)
    at = {"proc": tmp_path / "proc", "root": tmp_path / "sys"}
    monkeypatch.setattr(watch, "groups", lambda pid: groups(pid, **at))
    one = Watch([])
    one.begin(7)
    assert one.limit == 1000
    for file in (tmp_path / "sys").rglob("memory.max"):
        if file.read_text().strip() == "1000":
            file.write_text("900\n")
    (tmp_path / "proc" / "7" / "cgroup").unlink()  # the process is gone
    one.ended()
    assert one.limit == 900


@pytest.mark.parametrize("stat", ["7 (llama) server) R 1 7 7 0 -1 4194308 12", "7 (a b) Z 1 7 7 0 -1 4194304 12"])
def test_the_top_that_is_shown_of_a_process_that_is_ending_is_not_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stat: str
) -> None:
    """Of version 1 the kernel shows the top of the hierarchy from the moment a process begins to end."""
    tree(tmp_path, V1)
    at = {"proc": tmp_path / "proc", "root": tmp_path / "sys"}
    monkeypatch.setattr(watch, "groups", lambda pid: groups(pid, **at))
    monkeypatch.setattr(watch, "EVERY_S", 0.0)
    (tmp_path / "proc" / "7" / "stat").write_text("7 (llama) server) R 1 7 7 0 -1 4194304 12")
    one = Watch([])
    one.begin(7)
    assert one.limit == 2000
    (tmp_path / "proc" / "7" / "cgroup").write_text("4:memory:/\n0::/\n")
    (tmp_path / "proc" / "7" / "stat").write_text(stat)
    assert groups(7, **at) == ()
    (tmp_path / "sys" / "memory" / "x" / "memory.limit_in_bytes").write_text("1600\n")
    one.look(7)
    one.ended()
    assert one.limit == 1600


def test_a_device_may_be_fuller(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [bool(s) for s in looks(monkeypatch, [0.95, 0.985, 0.9], device=True)] == [False, True, True]


def test_devices_are_read_by_the_vendors_own_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bus/pci/devices/0000:03:00.0"
    tree(folder, {"mem_info_vram_used": "900\n", "mem_info_vram_total": "1000\n"})
    card = {"id": "gpu0", "vendor": "amd", "pci": "0000:03:00.0"}
    assert device_level(card, sys_root=tmp_path) == Level("the memory of gpu0", 900, 1000)
    assert device_level({**card, "pci": "0000:04:00.0"}, sys_root=tmp_path) is None
    asked = []

    def output(*argv: str) -> str:
        asked.append(argv)
        return "23500, 24564\n"

    monkeypatch.setattr(watch, "output", output)
    green = {"id": "gpu1", "vendor": "nvidia", "uuid": "GPU-1"}
    assert device_level(green) == Level("the memory of gpu1", 23500 * MIB, 24564 * MIB)
    assert asked[0][:2] == ("nvidia-smi", "--id=GPU-1")
    monkeypatch.setattr(watch, "output", lambda *_: "[N/A], [N/A]\n")
    assert device_level(green) is None


def test_status_shows_how_near_memory_is_to_its_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.deployments.launch(rig.spec())
    calm = rig.deployments.get("one").memory
    assert calm is not None and 0 < calm.bytes <= calm.limit_bytes and not calm.near
    assert rig.deployments.survey().warnings == ()
    full = Level("cgroup v2 memory.max", 95 * MIB, 100 * MIB)
    monkeypatch.setattr(group_memory, "nearest", lambda pid: full)
    found = rig.deployments.get("one")
    assert found.memory is not None and found.memory.near
    warning = nearly_full(found)
    assert warning is not None and warning.code == "memory-nearly-full"
    assert warning.message == "one: cgroup v2 memory.max is nearly used up: 95 of 100 MiB (95 %)."
    assert rig.deployments.survey().warnings == (warning,)
    rig.deployments.stop("one")
    assert rig.deployments.get("one").memory is None
