"""LoRA adapters: merged into the weights before anything else is made of them, or turned into a GGUF adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from advisor.api import making
from advisor.api.context import resolve_model
from advisor.facts.model import ModelFacts

if TYPE_CHECKING:
    from advisor.execute.make import Making
    from advisor.execute.steps import Steps
    from advisor.settings import Settings

MERGING_ENV = "transformers"


def merged(settings: Settings, steps: Steps, model: ModelFacts, adapter: Path) -> ModelFacts:
    """The model with ``adapter`` merged into it, as a checkpoint in the store; steps fetch, restore and merge.

    Raises:
        AdvisorError: as ``model.adapters.read`` and ``check``, before anything is built; as the steps.
    """
    from advisor.api import checkpoints, variants
    from advisor.execute import adapters
    from advisor.execute.make import Made
    from advisor.execute.steps import Outcome, Step
    from advisor.model.adapters import check, read

    known = read(adapter)
    check(known, model)
    base = checkpoints.original(settings, steps, model)
    env = variants.environment_of(settings, steps, MERGING_ENV)
    maker = making.maker(settings, steps, env, making.granted_threads(settings))

    def run() -> Outcome[Made]:
        made = adapters.merge(maker, base.folder, adapter, identity_of=base.identity)
        told = f"{made.manifest['merged']} matrices of {adapter.name}, rank {known.rank}"
        return Outcome(made, made.reused, told)

    made = steps.do(Step("merge", run))
    found = resolve_model(str(made.path), settings)
    name = f"{model.name}-{adapter.name}"
    note = f"{adapter.name} (LoRA, rank {known.rank}) was merged into {model.name}."
    return msgspec.structs.replace(found, name=name, ref=model.ref, notes=(*found.notes, *base.notes, note))


def as_gguf(settings: Settings, steps: Steps, model: ModelFacts, adapter: Path) -> Path:
    """The adapter alone as a GGUF file, for a llama.cpp that serves the unchanged model.

    Raises:
        AdvisorError: as ``merged``.
    """
    from advisor.api import checkpoints
    from advisor.execute import adapters
    from advisor.execute.make import Made
    from advisor.execute.steps import Outcome, Step
    from advisor.model.adapters import check, read

    check(read(adapter), model)
    base = checkpoints.original(settings, steps, model)
    maker: Making = making.making_of(settings, steps, making.granted_threads(settings))

    def run() -> Outcome[Made]:
        made = adapters.to_gguf(maker, base.folder, adapter, name=adapter.name, identity_of=base.identity)
        return Outcome(made, made.reused, f"{made.manifest['tensors']} tensors")

    return steps.do(Step("adapter", run)).path
