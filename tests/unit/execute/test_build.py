"""Compiling llama.cpp: the tools are looked over first, Ninja's lines become progress, a stopped build goes on."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor import settings
from advisor.backends.llama import native
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event
from advisor.execute import env_build, owner
from advisor.execute.llama import build, find, toolchain
from advisor.execute.llama.compiling import BYTES_A_JOB, Edges, jobs
from advisor.settings import Settings
from tests.support import tiny_tree
from tests.unit.planner import planner_fakes as fakes


class Stand:
    """Fetching and the health check stood in for; CMake and Ninja are real."""

    def __init__(self, folder: Path) -> None:
        self.archive = folder / "tiny-1.tar.gz"
        self.pins = tiny_tree.pins(tiny_tree.archive(self.archive))
        self.home = settings.load(env={"ADVISOR_HOME": str(folder / "home with space")})
        self.base = self.home.paths.envs / "llama.cpp-build-0123456789abcdef"
        self.downloads = 0
        self.healthy = True
        self.events: list[Event] = []

    @property
    def recipe(self) -> build.Recipe:
        flags = (f"-DPYTHON={sys.executable}",)
        return build.Recipe("cpu", flags, tiny_tree.tools(), self.base, self.pins, ("llama-server", "llama-quantize"))

    def venv(self, program: str, folder: Path, **_: Any) -> None:
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(sys.executable)

    def download(self, *args: Any, **_: Any) -> dict[str, Any]:
        self.downloads += 1
        dest = args[3]
        shutil.copy(self.archive, dest / self.archive.name)
        return {"path": str(dest / self.archive.name), "sha256": tiny_tree.archive(self.archive).sha256}

    def health(self, *_: Any, **__: Any) -> dict[str, Any]:
        if not self.healthy:
            raise AdvisorError("env-failed", "The environment llama.cpp-build does not work: no tokens.")
        return {"tokens": 2, "log": "system_info: n_threads = 1 | CPU : AVX2 = 1 |"}

    def ensure(self, cancel: Cancel | None = None, reporter: Any = None) -> Any:
        hear = reporter or self.events.append
        return build.ensure(self.recipe, fakes.cpu_only(), settings=self.home, reporter=hear, cancel=cancel)

    def steps(self) -> list[str]:
        (work,) = self.base.glob("work.*")
        return (work / "build" / "steps.log").read_text().split()


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    it = Stand(tmp_path)
    monkeypatch.setattr(env_build, "make_venv", it.venv)
    monkeypatch.setattr(env_build, "download", it.download)
    monkeypatch.setattr(env_build, "check_health", it.health)
    # The pin of the tiny archive is written anew for each call; its bytes differ in nothing but that.
    sha = it.pins.sdists[0].sha256
    monkeypatch.setattr(it, "download", lambda *a, **k: {**Stand.download(it, *a, **k), "sha256": sha})
    monkeypatch.setattr(env_build, "download", it.download)
    return it


def test_a_build_is_made_once_and_marked_last(stand: Stand) -> None:
    env = stand.ensure()
    programs = build.programs(env)
    assert sorted(programs) == ["llama-quantize", "llama-server"]
    assert all(Path(p).is_file() for p in programs.values())
    assert (Path(env.path) / "tools" / "LICENSE").is_file()
    assert env.health == {
        "tokens": 2,
        "backend": "cpu",
        "flags": [f"-DPYTHON={sys.executable}"],
        "features": ["AVX2"],
    }
    assert list(stand.base.glob("work.*")) == []
    assert sorted(p.name for p in stand.base.iterdir() if p.is_dir()) == [Path(env.path).name]
    assert stand.ensure() == env
    assert stand.downloads == 1
    progress = [e for e in stand.events if e.unit == "files"]
    assert progress[-1].done == progress[-1].total
    assert {"compiling one.c", "compiling llama-server"} <= {e.message for e in progress}


def test_a_stopped_build_goes_on_where_it_was(stand: Stand) -> None:
    cancel = Cancel()

    def stop(event: Event, /) -> None:
        if event.message == "compiling one.c":
            (next(iter(stand.base.glob("work.*"))) / "build" / "hold").touch()
            cancel.set()

    with pytest.raises(AdvisorError) as e:
        stand.ensure(cancel, stop)
    assert e.value.code == "interrupted"
    assert not (stand.base / "complete.json").exists()
    assert stand.steps().count("one") == 1
    (work,) = stand.base.glob("work.*")
    (work / "build" / "hold").unlink(missing_ok=True)
    log: list[str] = []

    def last(event: Event, /) -> None:
        if event.unit == "files" and event.done == event.total:
            log.extend(stand.steps())

    stand.ensure(reporter=last)
    assert log.count("one") == 1, "what was compiled is not compiled again"
    assert log.count("three") == 1
    assert stand.downloads == 1, "sources that were unpacked whole are not fetched again"


def test_what_does_not_go_on_is_begun_again_once(stand: Stand) -> None:
    stand.base.mkdir(parents=True)
    work = stand.base / "work.old"
    (work / "build").mkdir(parents=True)
    (work / "owner").write_text("gone.1.1")
    (work / "build" / "CMakeCache.txt").write_text("CMAKE_HOME_DIRECTORY:INTERNAL=/somewhere/else\n")
    stand.ensure()
    assert any("begun again" in e.message for e in stand.events)


def test_a_failed_compilation_says_why_and_leaves_nothing_usable(stand: Stand) -> None:
    def spoil(event: Event, /) -> None:
        if event.message == "configuring":
            (next(iter(stand.base.glob("work.*"))) / "fail").touch()

    with pytest.raises(AdvisorError) as e:
        stand.ensure(reporter=spoil)
    assert e.value.code == "env-failed"
    assert e.value.exit_code == 5
    assert any("does not compile" in line for line in e.value.context)
    assert e.value.context[-1].startswith("log: ")
    assert not (stand.base / "complete.json").exists()
    next(iter(stand.base.glob("work.*/fail"))).unlink()
    assert stand.ensure().python


def test_programs_that_do_not_work_are_not_published(stand: Stand) -> None:
    stand.healthy = False
    with pytest.raises(AdvisorError, match="does not work"):
        stand.ensure()
    assert not (stand.base / "complete.json").exists()
    assert build.find_built(stand.home) == ()
    stand.healthy = True
    assert stand.ensure().health["tokens"] == 2


def test_sources_with_another_hash_are_not_unpacked(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_build, "download", lambda *a, **k: {**stand.download(*a, **k), "sha256": "0" * 64})
    with pytest.raises(AdvisorError) as e:
        stand.ensure()
    assert e.value.code == "integrity"
    assert list(stand.base.glob("work.*/source")) == []


def test_offline_names_what_is_not_here(stand: Stand) -> None:
    stand.home = settings.load({"offline": True}, env={"ADVISOR_HOME": str(stand.home.paths.cache)})
    stand.base = stand.home.paths.envs / stand.base.name
    with pytest.raises(AdvisorError) as e:
        stand.ensure()
    assert e.value.code == "offline"
    assert e.value.exit_code == 6


def test_the_work_of_a_living_builder_is_left_alone(tmp_path: Path) -> None:
    for name, holder in (("work.a", owner.me().replace(f".{owner.me().split('.')[1]}.", ".1.")), ("work.b", "x.1.1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "owner").write_text(holder)
    alive = f"{owner.kernel()}.1.{owner.start_time(1)}"
    (tmp_path / "work.a" / "owner").write_text(alive)
    assert build._take_work(tmp_path).name == "work.b"
    assert (tmp_path / "work.a").is_dir()
    (tmp_path / "work.b" / "owner").write_text(alive)
    assert build._take_work(tmp_path).name not in ("work.a", "work.b")


def test_a_disk_too_small_is_told_before_compiling(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "free_bytes", lambda _: 10)
    with pytest.raises(AdvisorError) as e:
        stand.ensure()
    assert e.value.code == "disk-full"
    assert e.value.data["needed_bytes"] == stand.pins.disk_bytes


# -- progress --------------------------------------------------------------------------------------------------------


def test_edges_tell_what_is_left() -> None:
    told: list[Event] = []
    now = iter([0.0, 10.0, 20.0])
    edges = Edges("s", told.append, clock=lambda: next(now))
    for line in (
        "[1/10] Building CXX object src/CMakeFiles/llama.dir/llama-arch.cpp.o",
        "some compiler's warning [3/4] in a sentence",
        "[2/10] Building CXX object ggml/x.cpp.o",
        "[6/10] Linking CXX shared library bin/libggml.so",
    ):
        edges.hear(line)
    assert [(e.done, e.total, e.message, e.seconds_left) for e in told] == [
        (1, 10, "compiling llama-arch.cpp", None),
        (2, 10, "compiling x.cpp", 80.0),
        (6, 10, "compiling libggml.so", 16.0),
    ]


@pytest.mark.parametrize(
    ("cores", "memory", "wanted"),
    [(2.0, 16 << 30, 2), (1.5, None, 1), (0.5, None, 1), (64.0, 4 * BYTES_A_JOB, 4), (8.0, 1, 1)],
)
def test_compilers_at_once_follow_cores_and_memory(cores: float, memory: int | None, wanted: int) -> None:
    assert jobs(cores, memory) == wanted


# -- the tools that are there ----------------------------------------------------------------------------------------


def program(folder: Path, name: str, text: str = "#!/bin/sh\nexit 0\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_everything_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(AdvisorError) as e:
        toolchain.check("vulkan", {})
    assert e.value.code == "tool-missing"
    assert e.value.exit_code == 5
    assert e.value.data["missing"] == ["cc", "c++", "glslc", "vulkan.h", "spirv.hpp", "libvulkan"]
    assert e.value.hint == "advisor env build llama.cpp --provider wheel"
    assert len(e.value.context) == 6
    assert "apt-get install build-essential" in e.value.context[0]


def test_tools_are_found_under_their_other_names(tmp_path: Path) -> None:
    for name in ("clang", "g++", "ninja-build", "cmake"):
        program(tmp_path, name)
    found = toolchain.look(str(tmp_path))
    assert found["cc"] == str(tmp_path / "clang")
    assert found["c++"] == str(tmp_path / "g++")
    assert found["ninja"] == str(tmp_path / "ninja-build")
    assert native.missing("cpu", found) == ()


def test_a_compiler_that_does_not_run_is_missing(tmp_path: Path) -> None:
    broken = program(tmp_path, "cc", "#!/no/such/interpreter\n")
    works = program(tmp_path, "c++", "#!/bin/sh\necho g++ 12.2\n")
    assert toolchain.words("cpu", {"cc": str(works), "c++": str(works)}) == ("cc: g++ 12.2", "c++: g++ 12.2")
    with pytest.raises(AdvisorError) as e:
        toolchain.words("cpu", {"cc": str(broken), "c++": str(works)})
    assert e.value.code == "tool-missing"
    assert str(broken) in e.value.message


@pytest.mark.parametrize(("said", "usable"), [("3.25.1", True), ("4.0", True), ("3.10.2", False), ("", False)])
def test_an_old_cmake_is_not_used(tmp_path: Path, said: str, usable: bool) -> None:
    cmake = program(tmp_path, "cmake", f"#!/bin/sh\necho 'cmake version {said}'\n")
    assert (toolchain.usable_cmake({"cmake": str(cmake)}) is not None) == usable


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    home = settings.load(env={"ADVISOR_HOME": str(tmp_path)})
    with pytest.raises(AdvisorError) as e:
        build.recipe(fakes.cpu_only(), home, backend="abacus")
    assert e.value.code == "bad-option"


# -- programs on PATH ------------------------------------------------------------------------------------------------

ANSWERS = """#!/bin/sh
echo "$@" >> "{calls}"
case "$1" in
--version) echo 'version: 9000 (abcdef0)' >&2 ;;
--help) echo '-m,    --model FNAME      f'; echo '--port PORT      p'; echo '--list-devices   d' ;;
--list-devices) echo 'Available devices:'; echo '  CUDA0: A card (1000 MiB, 900 MiB free)' ;;
esac
"""


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return program(tmp_path / "bin", "llama-server", ANSWERS.format(calls=tmp_path / "calls"))


def home_of(tmp_path: Path, **env: str) -> Settings:
    return settings.load(env={"ADVISOR_HOME": str(tmp_path / "home"), **env})


def test_programs_are_asked_once(tmp_path: Path, server: Path) -> None:
    home = home_of(tmp_path)
    program(server.parent, "llama-quantize")
    tools, why = find.programs(f"relative:{tmp_path}/no:{server.parent}")
    assert (sorted(tools), why) == (["llama-quantize", "llama-server"], None)
    kept = find.facts_of(tools, home)
    assert (kept.binary.number, kept.binary.backends, kept.works) == (9000, ("cpu", "cuda"), None)
    assert find.facts_of(tools, home) == kept
    assert (tmp_path / "calls").read_text().split() == ["--version", "--help", "--list-devices"]
    server.write_text(server.read_text() + "# newer\n")
    assert find.facts_of(tools, home).identity != kept.identity
    find.forget(tools, home)
    find.facts_of(tools, home)
    assert len((tmp_path / "calls").read_text().split()) == 9


@pytest.mark.parametrize("which", ["program", "folder"])
def test_what_anybody_can_change_is_not_run(tmp_path: Path, server: Path, which: str) -> None:
    (server if which == "program" else server.parent).chmod(0o777)
    tools, why = find.programs(str(server.parent))
    assert tools == {}
    assert why is not None
    assert "can be changed by anybody" in why
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#!/bin/sh\nexit 3\n", "exit status 3"),
        ("#!/bin/sh\nkill -ILL $$\n", "SIGILL"),
        ("#!/no/such/interpreter\n", "cannot be started"),
        ("#!/bin/sh\necho hello\n", "does not answer as a llama-server"),
        ("#!/bin/sh\nhead -c 3000000 /dev/zero\n", "does not answer as a llama-server"),
    ],
)
def test_a_program_that_does_not_answer_does_not_work(tmp_path: Path, text: str, says: str) -> None:
    tools = {"llama-server": str(program(tmp_path / "bin", "llama-server", text))}
    kept = find.facts_of(tools, home_of(tmp_path))
    assert kept.works is False
    assert kept.why is not None
    assert says in kept.why


def test_a_program_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "_DEADLINE_S", 0.3)
    tools = {"llama-server": str(program(tmp_path / "bin", "llama-server", "#!/bin/sh\nsleep 60\n"))}
    kept = find.facts_of(tools, home_of(tmp_path))
    assert kept.works is False
    assert "longer than 0.3 s" in str(kept.why)


def test_the_loaders_variables_do_not_reach_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "HF_TOKEN"):
        monkeypatch.setenv(name, "")
    text = f"#!/bin/sh\nenv > '{tmp_path}/env'\n"
    find.facts_of({"llama-server": str(program(tmp_path / "bin", "llama-server", text))}, home_of(tmp_path))
    seen = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert not seen & {"LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "HF_TOKEN"}


def test_the_folder_can_be_set_but_not_by_a_projects_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    own = str(tmp_path / "mine")
    assert find.search_path(home_of(tmp_path, ADVISOR_LLAMA_CPP_DIR=own)) == f"{own}:{own}/bin"
    assert find.search_path(home_of(tmp_path, ADVISOR_LLAMA_CPP_DIR="relative")) == "/usr/bin"
    project = tmp_path / "project"
    project.mkdir()
    (project / "advisor.yaml").write_text(f"llama_cpp_dir: {own}\n")
    given = settings.load(env={"ADVISOR_HOME": str(tmp_path / "home")}, project=project)
    assert given.get("llama_cpp_dir") == own
    assert find.search_path(given) == "/usr/bin"


def test_a_kept_file_that_is_damaged_is_asked_for_anew(tmp_path: Path, server: Path) -> None:
    home = home_of(tmp_path)
    tools = {"llama-server": str(server)}
    first = find.facts_of(tools, home)
    kept = Path(home.paths.cache) / "llama-programs.json"
    kept.write_bytes(b'{"version": 1, "programs": {"x"')
    assert find.facts_of(tools, home) == first
    assert msgspec.json.decode(kept.read_bytes())["programs"]
