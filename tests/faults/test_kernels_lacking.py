"""A build of a runtime without the kernels that a plan needs: said, left for another way, remembered and forgotten.

Through the real command line, over a server that ends as one did whose build was made for another processor."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted
from tests.unit.deploy.rig import Rig

LINE = "llama.cpp does not start: Illegal instruction (core dumped)"


class Machine:
    """A home, a model that is served as it is, and a server that lacks a kernel."""

    def __init__(self, root: Path) -> None:
        self.folder = scripted.runners(root / "runners", serve=["--print", LINE, "--exit", "132"])
        self.model = scripted.model(root / "small-Q8_0.gguf", "q8_0")
        self.rig = Rig(Path(os.environ["ADVISOR_HOME"]) / "state" / "deployments")

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        done = scripted.advisor(self.folder, *words, "--json")
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def here(tmp_path: Path) -> Any:
    made = Machine(tmp_path)
    yield made
    made.rig.clean_up()


def test_a_missing_kernel_is_remembered_until_it_is_forgotten(here: Machine) -> None:
    code, document = here.run("up", str(here.model), "--threads", "1")
    error = document["error"]
    assert (code, error["code"]) == (1, "server-failed")
    assert error["data"]["diagnosis"]["cause"] == "unsupported-kernel"
    learned = error["data"]["learned"]
    assert (learned["runtime"], learned["method"], learned["format"], learned["devices"]) == (
        "llama.cpp", "gguf", None, ["cpu"],
    )  # fmt: skip
    assert learned["engine"].startswith("wheel ") and learned["evidence"] == LINE
    assert all(step["change"].startswith("llama.cpp -> ") for step in error["data"]["ladder"])

    _, document = here.run("recommend", str(here.model))
    plans = document["data"]["plans"]
    assert "llama.cpp" not in {p["runtime"] for p in plans}
    (out,) = [r for r in document["data"]["rejected"] if r["rule"] == "RT-905"]
    assert learned["plan"] in out["because"] and "Illegal instruction [core dumped]" in out["because"]
    assert "advisor bench --forget" in out["because"]
    assert [w["code"] for w in document["warnings"]].count("kernels-learned") == 1
    _, document = here.run("explain", "last")
    assert any("RT-905" in line and learned["plan"] in line for line in document["data"]["explanation"]["details"])

    # The same plan by its name is tried again, which says the same and teaches nothing new.
    code, document = here.run("up", learned["plan"])
    assert (code, document["error"]["data"]["diagnosis"]["code"]) == (1, "illegal-instruction")

    code, _ = here.run("bench", "--forget")
    assert code == 0
    _, document = here.run("recommend", str(here.model))
    assert document["data"]["plans"][0]["runtime"] == "llama.cpp"
    assert "kernels-learned" not in [w["code"] for w in document["warnings"]]
