"""Whatever stands in a path or an argument comes out of each format as it went in."""

from __future__ import annotations

import csv
import plistlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from advisor.deploy.export import boot, formats, units
from advisor.deploy.export.base import Program, label
from advisor.deploy.spec import LaunchSpec
from tests.support import exports
from tests.support.exports import a_service

# What passes the check of `advisor export`: no control characters. Paths are absolute.
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), max_size=40)
NASTY = '/srv/it\'s "my" $HOME/%h 100%/$(id)/`id`/a;b,c:d=e/{x}/#/部署 \\n\\'
PATHS = TEXT.map(lambda t: f"/srv/{t}/model.gguf")
ENV = st.dictionaries(st.from_regex(r"[A-Z][A-Z_]{0,8}", fullmatch=True), TEXT, max_size=3)
EACH = settings(max_examples=40, deadline=None)


def program(argv: list[str], env: dict[str, str]) -> Program:
    return Program(tuple(argv), env)


@EACH
@given(st.lists(TEXT, max_size=5), ENV, PATHS)
@example([NASTY, "", " ", ";", "$$", "%%", '"'], {"A": NASTY}, NASTY)
def test_systemd_reads_back_what_was_written(args: list[str], env: dict[str, str], first: str) -> None:
    service = a_service()._replace(
        program=program([first, *args], env), scope="system", user="me", artifact=Path(first)
    )
    (file,) = formats()["systemd"].files(service)
    sections = exports.systemd_sections(file.text)
    found = dict(sections["Service"])
    assert exports.systemd_command(found["ExecStart"]) == [first, *args]
    set_ = [exports.systemd_words(v)[0] for k, v in sections["Service"] if k == "Environment" and "HOME=%C" not in v]
    assert set_ == [f"{k}={v}" for k, v in sorted(env.items())]
    assert exports.systemd_words(found["ReadOnlyPaths"])[0] == str(Path(first))
    assert exports.systemd_command(found["ExecStartPost"])[-1] == service.url


@EACH
@given(PATHS)
@example(NASTY + ".gguf")
def test_quadlet_mounts_what_is_meant(path: str) -> None:
    service = a_service(artifact=path)
    (file,) = formats()["quadlet"].files(service)
    (mount,) = [v for k, v in exports.systemd_sections(file.text)["Container"] if k == "Mount"]
    (word,) = (exports.dollars(w) for w in exports.systemd_words(mount))
    (fields,) = csv.reader([word])
    assert fields == ["type=bind", f"source={Path(path)}", f"destination={service.inside}", "ro=true"]


@EACH
@given(PATHS, PATHS)
@example(NASTY + ".gguf", NASTY)
def test_compose_reads_back_what_was_written(path: str, key: str) -> None:
    (file,) = formats()["compose"].files(a_service(artifact=path, key_file=key))
    body = yaml.safe_load(file.text)
    (one,) = exports.read_dollars(body["services"]).values()
    assert one["volumes"][0]["source"] == str(Path(path))
    assert exports.read_dollars(body["secrets"])["api-key"]["file"] == key


@EACH
@given(ENV, st.lists(TEXT, max_size=4))
@example({"A": NASTY}, [NASTY, "$(HOME)", "on", "1e3", "~", "null"])
def test_kubernetes_reads_back_what_was_written(env: dict[str, str], args: list[str]) -> None:
    service = a_service()
    assert service.container is not None
    service = service._replace(container=service.container._replace(env=env, arguments=tuple(args)))
    for file in formats()["kubernetes"].files(service):
        parts = list(yaml.safe_load_all(file.text))
        for part in parts:
            if part["kind"] == "Deployment":
                (server,) = part["spec"]["template"]["spec"]["containers"]
                assert exports.read_dollars(server["args"]) == args
                assert {e["name"]: exports.dollars(e["value"]) for e in server["env"]} == env


@EACH
@given(st.lists(TEXT, max_size=4), ENV)
@example([NASTY, "]]>", "<&>"], {"A": NASTY})
def test_launchd_reads_back_what_was_written(args: list[str], env: dict[str, str]) -> None:
    argv = ["/opt/p", *(re.sub(r"[\ufffe\uffff]", "", a) for a in args)]  # XML has no such characters
    env = {k: re.sub(r"[\ufffe\uffff]", "", v) for k, v in env.items()}
    (file,) = formats()["launchd"].files(a_service()._replace(program=program(argv, env)))
    read = plistlib.loads(file.text.encode())
    assert read["ProgramArguments"] == argv and read["EnvironmentVariables"] == env


@EACH
@given(PATHS)
@example(NASTY + ".gguf")
def test_a_modelfile_names_the_path_as_it_is(path: str) -> None:
    (file,) = formats()["modelfile"].files(a_service(artifact=path))
    (line,) = [at for at in file.text.splitlines() if at.startswith("FROM ")]
    assert line == f"FROM {Path(path)}"


@EACH
@given(st.lists(TEXT, max_size=4), ENV, PATHS)
@example(["-x", NASTY, "--y", "", "a b"], {"A": NASTY}, NASTY)
def test_a_shell_reads_back_what_was_written(args: list[str], env: dict[str, str], path: str) -> None:
    service = a_service(artifact=path, made_by=f"make {path}")._replace(program=program(["/opt/p", *args], env))
    (file,) = formats()["script"].files(service)
    words = shlex.split(file.text.replace("\\\n", ""), comments=True)
    start = words.index("env")
    line = words[start + 4 : start + 4 + len(env) + 1 + len(args)]
    assert line == [*(f"{k}={v}" for k, v in sorted(env.items())), "/opt/p", *args]
    assert f"model={Path(path)}" in words


def test_the_script_starts_just_that(tmp_path: Path) -> None:
    model = tmp_path / 'it\'s "my" $HOME model.gguf'
    model.write_bytes(b"GGUF")
    key = tmp_path / "keys $x" / "key"
    said = tmp_path / "said"
    code = "import os, sys; open(sys.argv[1], 'w').write(repr((sys.argv[2:], dict(os.environ))))"
    argv = [sys.executable, "-I", "-c", code, str(said), NASTY, "", "$HOME"]
    service = a_service(artifact=str(model), key_file=str(key))._replace(program=program(argv, {"A_B": NASTY}))
    (file,) = formats()["script"].files(service)
    script = tmp_path / "run me.sh"
    script.write_text(file.text, encoding="utf-8")
    given_env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SECRET": "canary"}
    done = subprocess.run(["sh", str(script)], env=given_env, capture_output=True, text=True, check=True)
    arguments, env = eval(said.read_text())
    assert arguments == [NASTY, "", "$HOME"]
    assert env["A_B"] == NASTY and "SECRET" not in env
    assert "A new key was made" in done.stderr and len(key.read_text()) == 64
    assert key.stat().st_mode & 0o077 == 0
    before = key.read_text()
    subprocess.run(["sh", str(script)], env=given_env, capture_output=True, check=True)
    assert key.read_text() == before
    model.unlink()
    gone = subprocess.run(["sh", str(script)], env=given_env, capture_output=True, text=True)
    assert gone.returncode == 66 and str(model) in gone.stderr


@EACH
@given(TEXT, TEXT)
@example(NASTY, "/a $ b")
def test_the_unit_for_after_a_reboot(home: str, program_: str) -> None:
    spec = LaunchSpec(
        name="m", plan_id="p-1", model="m", artifact="/m", runtime="llama.cpp", argv=("x",), env={}, port=1
    )
    text = boot.unit(spec, (f"/{program_}", "-m", "advisor"), {"ADVISOR_HOME": home})
    found = dict(exports.systemd_sections(text)["Service"])
    assert exports.systemd_command(found["ExecStart"]) == [f"/{program_}", "-m", "advisor", "restart", "m", "--quiet"]
    assert exports.systemd_words(found["Environment"]) == [f"ADVISOR_HOME={home}"]


@given(TEXT)
def test_labels_are_labels(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", label(name)) and len(label(name)) <= 50


def test_the_reader_of_the_tests_tells_words_apart() -> None:
    assert exports.systemd_words('a "b c" "" \\" "x\\"y" 100%%') == ["a", "b c", "", '"', 'x"y', "100%"]
    assert units.words(("a b", "c")) == '"a b" c'
