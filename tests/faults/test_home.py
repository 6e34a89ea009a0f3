"""Homes that are missing, unwritable, oddly named or too long, and odd umasks: through the real command line."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from advisor import settings
from advisor.backends.pins import BackendPins, PackagePin
from advisor.errors import AdvisorError
from advisor.execute import envs
from tests.support import scripted

REPO = Path(__file__).resolve().parents[2]
NOBODY = "import pwd; pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid)); "
RUN = "from advisor.cli.main import run; run()"


def advisor(*words: str, umask: int = 0o022, code: str = RUN, **env: str) -> tuple[int, dict[str, Any]]:
    """Run ``advisor WORDS --json`` with nothing in its environment but ``env``; the exit code and the document."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--json"],
        cwd=REPO,
        env={"PATH": os.environ["PATH"], **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
        umask=umask,
    )
    assert b"Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def kept(document: dict[str, Any]) -> bool:
    """Whether the plans of an answer can be named later."""
    return "plans-not-kept" not in [w["code"] for w in document["warnings"]]


def odd(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    return folder


ODD_NAMES = [
    "two words",
    'it\'s "quoted" $(x) `y` ;#&|*?[]{}',
    "ünïcode 部署",
    "/".join(["x" * 60] * 4),
    "-rf",
]


@pytest.mark.parametrize(("variable", "name"), [("ADVISOR_HOME", ODD_NAMES[0]), *(("HOME", n) for n in ODD_NAMES)])
def test_plans_are_kept_in_any_folder(tmp_path: Path, variable: str, name: str) -> None:
    home = odd(tmp_path, name)
    code, document = advisor("recommend", "8B", **{variable: str(home)})
    assert (code, kept(document)) == (0, True)
    plan = document["data"]["plans"][0]["id"]
    code, document = advisor("explain", plan, **{variable: str(home)})
    assert code == 0
    assert document["data"]["explanation"]["title"]


@pytest.mark.parametrize("name", ODD_NAMES[1:3])
def test_a_model_is_made_and_served_in_any_folder(tmp_path: Path, name: str) -> None:
    home = odd(tmp_path, name)
    folder = scripted.runners(tmp_path / "runners")
    model = scripted.model(tmp_path / "small-F16.gguf")
    try:
        up = scripted.advisor(folder, "up", str(model), "--format", "q4_k_m", "--json", ADVISOR_HOME=str(home))
        assert up.returncode == 0, up.stderr
        assert json.loads(up.stdout)["data"]["deployment"]["state"] == "ready"
    finally:
        down = scripted.advisor(folder, "down", "--all", "-q", ADVISOR_HOME=str(home))
    assert down.returncode == 0


def test_without_home_the_password_file_knows_it() -> None:
    code, document = advisor("paths")
    assert code == 0
    assert document["data"]["paths"]["cache"] == str(Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache" / "advisor")


@pytest.mark.parametrize("words", [("paths",), ("recommend", "8B"), ("status",)])
def test_nobody_without_a_home_is_told_what_to_set(words: tuple[str, ...]) -> None:
    code, document = advisor(*words, code=NOBODY + RUN)
    assert (code, document["error"]["code"]) == (5, "no-home")
    assert document["error"]["hint"].startswith("ADVISOR_HOME=")
    assert advisor(*words, code=NOBODY + RUN, ADVISOR_HOME="~")[1]["error"]["code"] == "no-home"


def blocked(tmp_path: Path) -> dict[str, str]:
    """Homes that cannot be made, by what is in the way; also for root."""
    file = tmp_path / "file"
    file.write_text("")
    return {"file": str(file), "device": "/dev/null/home", "proc": "/proc/home"}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no folders on Linux only")
@pytest.mark.parametrize("way", ["file", "device", "proc"])
def test_an_unwritable_home_still_plans_and_says_that_plans_are_not_kept(tmp_path: Path, way: str) -> None:
    home = blocked(tmp_path)[way]
    code, document = advisor("recommend", "8B", HOME=home)
    assert code == 0
    assert document["data"]["plans"]
    assert not kept(document)
    assert home in document["warnings"][-1]["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no folders on Linux only")
@pytest.mark.parametrize("words", [("env", "build", "llama.cpp"), ("quantize", str(REPO / "no-such"))])
@pytest.mark.parametrize("way", ["file", "device", "proc"])
def test_what_needs_an_unwritable_home_names_the_path(tmp_path: Path, way: str, words: tuple[str, ...]) -> None:
    home = blocked(tmp_path)[way]
    if words[0] == "quantize":
        model = scripted.model(tmp_path / "small-F16.gguf")
        words = ("quantize", str(model))
    code, document = advisor(*words, HOME=home)
    assert code == 5
    assert document["error"]["code"] == "not-writable"
    assert home in document["error"]["message"]


@pytest.mark.parametrize("way", ["file", "device"])
def test_doctor_reports_an_unwritable_home_instead_of_failing(tmp_path: Path, way: str) -> None:
    code, document = advisor("doctor", HOME=blocked(tmp_path)[way])
    assert code == 5
    checks = {c["name"]: c for c in document["data"]["checks"]}
    assert checks["cache folder"]["ok"] is False
    assert checks["deployments"]["ok"] is False
    assert checks["cpu"]["ok"] is not False


@pytest.mark.parametrize("words", [("recommend", "8B"), ("status",), ("env", "build", "llama.cpp")])
@pytest.mark.parametrize(("variable", "home"), [("HOME", "/" + "x" * 300), ("ADVISOR_HOME", "/x" * 2500)])
def test_a_path_that_no_system_takes_is_named(words: tuple[str, ...], variable: str, home: str) -> None:
    code, document = advisor(*words, **{variable: home})
    assert (code, document["error"]["code"]) == (5, "no-home")
    assert "too long" in document["error"]["message"]


@pytest.mark.parametrize("name", ["right\u202eto left", "\udcff not utf-8", "red \x1b[31m", "two\nlines"])
@pytest.mark.parametrize("words", [("recommend", "8B"), ("up",)])
def test_a_folder_whose_name_is_not_text_is_refused_with_its_path(
    tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    home = odd(tmp_path, name)
    code, document = advisor(*words, HOME=str(home))
    assert (code, document["error"]["code"]) == (5, "no-home")
    assert str(tmp_path) in document["error"]["message"]
    assert list(home.iterdir()) == []


def test_a_relative_home_does_not_follow_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = settings.find_paths({"HOME": "here"})
    assert paths.state == str(tmp_path / "here" / ".local" / "state" / "advisor")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_any_umask_works_and_opens_nothing_to_others(tmp_path: Path, umask: int) -> None:
    home = str(tmp_path / "home")
    assert advisor("recommend", "8B", umask=umask, HOME=home)[0] == 0
    assert advisor("rules", "list", umask=umask, HOME=home)[0] == 0
    assert advisor("status", umask=umask, HOME=home)[0] == 0
    made = [Path(home), *Path(home).rglob("*")]
    assert len(made) > 5
    for path in made:
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0, path
    assert stat.S_IMODE((Path(home) / ".local/state/advisor/plans").stat().st_mode) == 0o700


PINS = BackendPins(
    name="tiny",
    description="for tests",
    python=">=3.11",
    packages=(PackagePin(name="six", version="1.17.0", why="w", source="s"),),
    health="pip_check.py",
    capabilities=(),
    disk_bytes=1000,
    source="s",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [ODD_NAMES[1], ODD_NAMES[2], "/".join(["long folder"] * 16)])
def test_an_environment_works_where_console_scripts_would_not(tmp_path: Path, name: str) -> None:
    """The first line of an installed script holds at most 127 characters and no blanks; none is ever run."""
    home = settings.load(env={"ADVISOR_HOME": str(odd(tmp_path, name))})
    env = envs.ensure("tiny", settings=home, pins=PINS)
    assert env.health["pip"]
    assert envs.doctor("tiny", settings=home, pins=PINS).healthy
    assert envs.ensure("tiny", settings=home, pins=PINS) == env


@pytest.mark.slow
def test_an_environment_beyond_the_longest_path_says_so(tmp_path: Path) -> None:
    deep = tmp_path
    while len(str(deep)) < 3900:
        deep = deep / ("x" * 80)
    home = settings.load(env={"ADVISOR_HOME": str(deep)})
    with pytest.raises(AdvisorError) as e:
        envs.ensure("tiny", settings=home, pins=PINS)
    assert (e.value.code, e.value.exit_code) in (("not-writable", 5), ("env-failed", 5))
    assert not envs.is_ready(PINS, home)
