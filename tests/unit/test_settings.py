"""Settings: folders, order of origins, bad values."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor import settings
from advisor.errors import AdvisorError


def test_one_home_holds_all_three(tmp_path: Path) -> None:
    paths = settings.find_paths({"ADVISOR_HOME": str(tmp_path / "a b")})
    assert paths.cache == str(tmp_path / "a b" / "cache")
    assert paths.deployments == tmp_path / "a b" / "state" / "deployments"


def test_xdg_folders_win_over_home() -> None:
    paths = settings.find_paths({"HOME": "/home/x", "XDG_CACHE_HOME": "/var/c", "XDG_STATE_HOME": "relative"})
    assert paths.cache == "/var/c/advisor"
    assert paths.state == "/home/x/.local/state/advisor"


def test_no_home_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    with pytest.raises(AdvisorError) as caught:
        settings.find_paths({})
    assert caught.value.code == "no-home"
    assert "ADVISOR_HOME" in (caught.value.hint or "")


def test_flag_beats_environment_beats_project_beats_user(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.yaml").write_text("port: 1111\nhost: 127.0.0.9\nrecover: auto\n")
    (tmp_path / "advisor.yaml").write_text("port: 2222\nhost: 127.0.0.8\n")
    env = {"ADVISOR_HOME": str(home), "ADVISOR_PORT": "3333"}
    loaded = settings.load({"port": None}, env=env, project=tmp_path)
    assert (loaded.get("port"), loaded.values["port"].origin) == (3333, "environment")
    assert loaded.get("host") == "127.0.0.8"
    assert loaded.values["recover"].origin.endswith("config.yaml")
    assert settings.load({"port": 4444}, env=env, project=tmp_path).values["port"].origin == "flag"
    assert loaded.values["offline"].origin == "default"


def test_hub_offline_counts(tmp_path: Path) -> None:
    assert settings.load(env={"ADVISOR_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}).offline
    assert not settings.load(env={"ADVISOR_HOME": str(tmp_path), "ADVISOR_OFFLINE": "no"}).offline


@pytest.mark.parametrize(
    ("text", "code"),
    [("prot: 1\n", "bad-settings-file"), ("- 1\n", "bad-settings-file"), ("port: [\n", "bad-settings-file")],
)
def test_bad_file_is_named(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "advisor.yaml").write_text(text)
    with pytest.raises(AdvisorError) as caught:
        settings.load(env={"ADVISOR_HOME": str(tmp_path)}, project=tmp_path)
    assert caught.value.code == code
    assert str(tmp_path / "advisor.yaml") in caught.value.message


def test_near_miss_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "advisor.yaml").write_text("prot: 1\n")
    with pytest.raises(AdvisorError, match='Did you mean "port"'):
        settings.load(env={"ADVISOR_HOME": str(tmp_path)}, project=tmp_path)


@pytest.mark.parametrize(("variable", "value"), [("ADVISOR_PORT", "many"), ("ADVISOR_OFFLINE", "perhaps")])
def test_bad_value_names_the_origin(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(AdvisorError) as caught:
        settings.load(env={"ADVISOR_HOME": str(tmp_path), variable: value}, project=tmp_path)
    assert caught.value.code == "bad-option"
    assert value in caught.value.message


def test_children_get_no_python_loader_or_secret_variables() -> None:
    env = {
        "PATH": "/bin",
        "PYTHONPATH": "/evil",
        "LD_LIBRARY_PATH": "/evil",
        "HF_TOKEN": "canary",
        "OPENAI_API_KEY": "canary",
        "PIP_INDEX_URL": "https://example.org/simple",
        "PIP_TARGET": "/evil",
        "https_proxy": "http://proxy:1",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    child = settings.child_environment(env)
    assert "canary" not in child.values()
    assert "/evil" not in child.values()
    assert child["PIP_INDEX_URL"] and child["https_proxy"] and child["CUDA_VISIBLE_DEVICES"] == "0"
