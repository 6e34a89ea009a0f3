"""The wheel and the source distribution carry everything and run from anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions, built from the checkout."""
    out = tmp_path_factory.mktemp("dist")
    repo = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(repo)], check=True, capture_output=True)
    return out


@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_installed_distribution_answers_from_another_folder(built: Path, pattern: str, tmp_path: Path) -> None:
    """A fresh environment, another working folder: rules and profiles are found and a plan comes out."""
    (archive,) = built.glob(pattern)
    env_dir = tmp_path / "env"
    venv.create(env_dir, with_pip=True)
    python = env_dir / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", str(archive)], check=True, capture_output=True)
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"ADVISOR_HOME": str(tmp_path / "home")}
    advisor = env_dir / "bin" / "advisor"
    version = subprocess.run(
        [str(advisor), "--version"], cwd=elsewhere, env=env, check=True, capture_output=True, text=True
    )
    assert "0." in version.stdout
    done = subprocess.run(
        [str(advisor), "recommend", "meta-llama/Llama-3.1-8B-Instruct", "--hardware", "rtx-4090", "--json"],
        cwd=elsewhere,
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    document = json.loads(done.stdout)
    assert document["schema"] == "advisor/recommend/v1"
    assert document["data"]["plans"]
    where = subprocess.run(
        [str(python), "-c", "import advisor, advisor.datafiles as d; print(advisor.__file__); print(d.root())"],
        cwd=elsewhere,
        env=env,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert all(line.startswith(str(env_dir)) for line in where), where
    asked = (
        "from advisor.backends import pins; print(all(pins.pins(n).locked for n in pins.names() if pins.variants(n)))"
    )
    locks = subprocess.run(
        [str(python), "-c", asked], cwd=elsewhere, env=env, check=True, capture_output=True, text=True
    )
    assert locks.stdout == "True\n"
