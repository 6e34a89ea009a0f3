"""``advisor export``, and ``up --foreground`` and ``--restart``: what goes where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import AdvisorError
from advisor.facts.exports import ExportedFile
from tests.support import sample_lists, samples

from .conftest import Outcome

Advise = Callable[..., Outcome]
TWO = (ExportedFile(name="a.yaml", text="a: 1\n"), ExportedFile(name="b.yaml", text="b: 2\n"))


def test_the_text_alone_is_on_standard_output(advise: Advise) -> None:
    done = advise("export", "script", "smollm2")
    assert done.out == "#!/bin/sh\nexec serve\n"
    assert "$ sh advisor-smollm2.sh" in done.err and "Clients need the key." in done.err
    assert advise("export", "script", "smollm2", "-q").err == ""


def test_what_was_asked_for_arrives(advise: Advise, fake: Callable[..., None]) -> None:
    seen: dict[str, Any] = {}

    def export(format: str, what: str, **options: Any) -> Any:
        seen.update(options, format=format, what=what)
        return sample_lists.sample_export()

    fake(export=export)
    line = "export Systemd p-3f2a9c --scope system --user me --host ::1 --port 9 --image a:1 --artifact /x --name n"
    assert advise(*line.split()).code == 0
    del seen["settings"]
    assert seen == {
        "format": "systemd",
        "what": "p-3f2a9c",
        "scope": "system",
        "user": "me",
        "host": "::1",
        "port": 9,
        "image": "a:1",
        "artifact": Path("/x"),
        "name": "n",
    }


def test_files_are_written_whole(advise: Advise, fake: Callable[..., None], tmp_path: Path) -> None:
    done = advise("export", "script", "smollm2", "--out", str(tmp_path))
    path = tmp_path / "advisor-smollm2.sh"
    assert done.out == f"{path}\n" and path.read_text().startswith("#!/bin/sh")
    assert path.stat().st_mode & 0o111
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    named = tmp_path / "other"
    assert advise("export", "script", "smollm2", "--out", str(named)).code == 0 and named.exists()
    fake(export=lambda format, what, **_: sample_lists.sample_export(files=TWO))
    assert advise("export", "kubernetes", "smollm2", "--out", str(tmp_path)).code == 0
    assert (tmp_path / "a.yaml").read_text() == "a: 1\n" and (tmp_path / "b.yaml").read_text() == "b: 2\n"
    refused = advise("export", "kubernetes", "smollm2", "--out", str(tmp_path / "one"))
    assert refused.code == 2 and "several files" in refused.err
    assert "b.yaml" in advise("export", "kubernetes", "smollm2").err
    fake(export=lambda format, what, **_: sample_lists.sample_export())
    absent = advise("export", "script", "smollm2", "--out", str(tmp_path / "no" / "such"))
    assert absent.code == 5


def test_the_document_has_text_files_and_what_was_written(advise: Advise, tmp_path: Path) -> None:
    body = json.loads(advise("export", "script", "smollm2", "--out", str(tmp_path), "--json").out)
    data = body["data"]
    assert data["text"] == data["files"][0]["text"] and data["steps"] == ["sh advisor-smollm2.sh"]
    assert data["written"] == [str(tmp_path / "advisor-smollm2.sh")]


# -- up ------------------------------------------------------------------------------------------------------------


def test_foreground_stays_with_what_came_up(advise: Advise, fake: Callable[..., None]) -> None:
    seen: list[str] = []

    def attend(name: str, *, line: Callable[[str], None], **_: Any) -> Any:
        seen.append(name)
        line("a line of the server")
        return samples.sample_deployment(state="stopped")

    fake(attend=attend)
    done = advise("up", "--foreground")
    assert done.code == 0 and seen == ["smollm2"]
    assert "a line of the server" in done.err and "http://127.0.0.1:8080/v1" in done.out


def test_foreground_that_was_told_to_end_while_it_came_up_stops_the_server(
    advise: Advise, fake: Callable[..., None]
) -> None:
    stopped: list[str] = []

    def up(model: str | None = None, *, cancel: Any, **_: Any) -> Any:
        cancel.set()  # and the run comes to its end all the same
        return samples.sample_up()

    def attend(name: str, **_: Any) -> Any:
        raise AssertionError("nobody may wait now")

    fake(up=up, attend=attend, down=lambda name, **_: stopped.append(name))
    assert advise("up", "--foreground").code == 0 and stopped == ["smollm2"]

    def broken(model: str | None = None, **_: Any) -> Any:
        raise AdvisorError("interrupted", "Stopped.")

    fake(up=broken)
    assert advise("up", "--foreground", "--name", "mine").code == 130 and stopped == ["smollm2", "mine"]
    assert advise("up", "--name", "mine").code == 130 and stopped == ["smollm2", "mine"]


def test_foreground_ends_as_the_server_ends(advise: Advise, fake: Callable[..., None]) -> None:
    def attend(name: str, **_: Any) -> Any:
        raise AdvisorError("server-failed", "Deployment smollm2 ended.")

    fake(attend=attend)
    assert advise("up", "--foreground", "-q").code == 1


@pytest.mark.parametrize("other", ["--dry-run", "--restart=always"])
def test_foreground_excludes(advise: Advise, fake: Callable[..., None], other: str) -> None:
    calls: list[str] = []
    fake(up=lambda *_, **__: calls.append("up"), check_boot=lambda **_: None)
    assert advise("up", "--foreground", other).code == 2
    assert calls == []


def test_restart_shows_the_unit_and_writes_it_with_yes_only(advise: Advise, fake: Callable[..., None]) -> None:
    unit = sample_lists.sample_export(
        format="systemd",
        text="[Unit]\nDescription=x\n",
        files=(ExportedFile(name="/home/me/.config/systemd/user/advisor-smollm2.service", text="[Unit]\n"),),
        steps=("systemctl --user enable advisor-smollm2.service",),
        notes=("down ends it until the next boot.",),
    )
    written: list[Any] = []
    fake(
        check_boot=lambda **_: None,
        at_boot=lambda name, **_: unit,
        install_at_boot=lambda made: written.append(made) or ("loginctl enable-linger",),
    )
    shown = advise("up", "--restart", "always")
    assert shown.code == 0 and written == []
    assert "Description=x" in shown.err and "$ systemctl --user enable" in shown.err
    done = advise("up", "--restart=always", "--yes")
    assert done.code == 0 and written == [unit]
    assert "$ loginctl enable-linger" in done.err and "Description=x" not in done.err
    assert advise("up", "--restart").code == 0, "without a word it means always"


def test_restart_is_refused_before_any_work(advise: Advise, fake: Callable[..., None]) -> None:
    calls: list[str] = []

    def no(**_: Any) -> None:
        raise AdvisorError("unsupported-system", "No systemd.", hint="advisor export script NAME")

    fake(up=lambda *_, **__: calls.append("up"), check_boot=no)
    assert advise("up", "--restart", "always").code == 5
    assert calls == []
