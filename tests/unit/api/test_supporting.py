"""The support bundle: whole, replayable, and without anything that is nobody's business."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from advisor import api
from advisor import settings as settings_
from advisor.deploy import keys
from advisor.deploy.spec import KEY_FILE
from advisor.errors import AdvisorError
from tests.unit.deploy.rig import Rig

CANARY = "canary-value-of-a-token"


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(settings_.load().paths.deployments)
    yield made
    made.clean_up()


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        out = {}
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            out[member.name.removeprefix("advisor-support/")] = io.TextIOWrapper(file, "utf-8").read()
        return out


def test_it_holds_what_helps_and_nothing_secret(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = settings_.load()
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("HOME", str(tmp_path / "home-of-somebody"))
    rig.folder().mkdir(parents=True, mode=0o700)
    key = keys.make(rig.folder() / KEY_FILE)
    secret = keys.read(key)
    home = tmp_path / "home-of-somebody"
    told = f"{CANARY} {home}/models hf_{'a' * 30}"
    rig.deployments.launch(rig.spec("--print", told, api_key_file=str(key), artifact=str(home / "x.gguf")))
    s.paths.logs.mkdir(parents=True, exist_ok=True)
    (s.paths.logs / "bug-1.log").write_text(f"Traceback: {told} {secret}")
    (s.paths.logs / "journal.jsonl").write_text('{"step": "launch"}\n')
    path = api.support_bundle(tmp_path / "support.tar.gz")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = contents(path)
    expected = ["about.json", "doctor.json", "deployments.json", "environments.json", "machine/bundle.json"]
    expected += ["deployments/one/spec.json", "deployments/one/log.txt", "logs/bug-1.log", "logs/journal.jsonl"]
    assert set(expected) <= set(found)
    assert "[redacted]" in found["deployments/one/log.txt"]
    for name, text in found.items():
        for kept in (CANARY, secret, "home-of-somebody", "hf_aaaa"):
            assert kept not in text, (name, kept)
    assert "[redacted]" in found["logs/bug-1.log"]
    assert "~/models" in found["logs/bug-1.log"]
    assert json.loads(found["doctor.json"])[0]["name"] == "python"
    assert json.loads(found["deployments.json"])["deployments"][0]["name"] == "one"


def test_its_machine_can_be_replayed(tmp_path: Path) -> None:
    path = api.support_bundle(tmp_path / "support.tar.gz")
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "there", filter="data")
    replayed = api.probe(machine=tmp_path / "there" / "advisor-support" / "machine").machine
    assert replayed.host.cpu.cores_logical == os.cpu_count()


def test_an_existing_file_is_not_replaced_and_a_wrong_folder_is_told(tmp_path: Path) -> None:
    there = tmp_path / "there.tar.gz"
    there.write_text("mine")
    with pytest.raises(AdvisorError) as e:
        api.support_bundle(there)
    assert e.value.code == "name-taken"
    assert there.read_text() == "mine"
    with pytest.raises(AdvisorError) as e:
        api.support_bundle(there / "below-a-file.tar.gz")
    assert e.value.exit_code == 5


def test_a_damaged_state_is_in_the_bundle_instead_of_an_error(rig: Rig, tmp_path: Path) -> None:
    rig.deployments.launch(rig.spec())
    (rig.folder() / "status.json").write_text("{")
    found = contents(api.support_bundle(tmp_path / "support.tar.gz"))
    assert "deployments.json" in found
