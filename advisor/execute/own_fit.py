"""What llama.cpp's own fit (``common_fit_params``, ``llama-fit-params``) chooses for a model: context and layers.

It is asked with nothing fixed, so that its choice can stand beside the plan's. It leaves 1 GiB of each device free. On
a host without devices it counts all memory of the system, not what a container is granted, and leaves out weights that
are repacked for the processor.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute.llama import fit
from advisor.execute.oracle import dry_request
from advisor.execute.proc import run_runner
from advisor.facts.model import ModelFacts
from advisor.facts.plan import EngineFit
from advisor.facts.plan import Settings as RunSettings

if TYPE_CHECKING:
    from advisor.backends.llama.binary import Binary
    from advisor.execute.envs import Env

MARGIN: Final = 1 << 30
LEAST_CONTEXT: Final = 4096
_DEADLINE_S: Final = 120.0
_SAID: Final = re.compile(r"^-c (\d{1,9}) -ngl (-?\d{1,6})(?: -ts ([\d.,]{1,500}))?", re.MULTILINE)


def by_library(env: Env, request: dict[str, Any], *, log: Path, cancel: Cancel | None = None) -> EngineFit | None:
    """What the fit of the library in ``env`` chooses; ``None`` where the library has none or does not take the model.

    Raises:
        AdvisorError: ``interrupted``.
    """
    try:
        got = run_runner(
            env,
            "fit_params.py",
            {**request, "margin_bytes": MARGIN, "least_context": LEAST_CONTEXT},
            step="fit",
            cancel=cancel,
            log=log,
            timeout_s=_DEADLINE_S,
        )
    except AdvisorError as e:
        if e.code == "interrupted":
            raise
        return None
    if got["status"] == "failed":
        return None
    fits = got["status"] == "fits"
    return EngineFit(
        engine="the library of the environment llama.cpp",
        fits=fits,
        context=int(got["context"]) if fits else None,
        gpu_layers=int(got["gpu_layers"]) if fits else None,
    )


def by_program(
    binary: Binary,
    model: Path,
    settings: RunSettings,
    *,
    log: Path,
    cancel: Cancel | None = None,
    variables: Mapping[str, str] | None = None,
) -> EngineFit | None:
    """What ``llama-fit-params`` beside a server chooses; ``None`` where there is none or it does not take the model.

    Raises:
        AdvisorError: ``interrupted``.
    """
    if fit.TOOL not in binary.tools:
        return None
    from advisor.backends.llama import commands

    name = f"{fit.TOOL} {binary.label}"
    argv = commands.own_fit(binary.tools[fit.TOOL], model, settings)
    lines, failed = fit.say(argv, step="fit", log=log, cancel=cancel, variables=variables)
    if failed is not None:
        refused = any("failed to fit" in line or "unable to fit" in line for line in (*lines, *failed.context))
        return EngineFit(engine=name, fits=False) if refused else None
    return read(name, "\n".join(lines))


def read(engine: str, text: str) -> EngineFit | None:
    """The choice out of what ``llama-fit-params`` prints: ``-c 8192 -ngl 21 -ts 12,9``."""
    found = _SAID.search(text)
    if found is None:
        return None
    split = tuple(float(x) for x in found[3].split(",") if x) if found[3] else None
    return EngineFit(engine=engine, fits=True, context=int(found[1]), gpu_layers=int(found[2]), tensor_split=split)


def ask(
    model: ModelFacts,
    fmt: str,
    settings: RunSettings,
    *,
    library: Env | None,
    programs: tuple[Binary, ...],
    folder: Path,
    artifact: Path | None = None,
    cancel: Cancel | None = None,
    variables: Mapping[str, str] | None = None,
) -> EngineFit:
    """What the first one chooses who can be asked: a program's tool, then the library; of a model whose file is not
    there a header of its facts is enough. ``engine`` is ``None`` where nobody answers.

    Raises:
        AdvisorError: ``interrupted``; ``bad-option`` for a format that is not GGUF.
    """
    request: dict[str, Any] = dry_request(model, fmt, settings)
    if artifact is not None:
        request["path"] = str(artifact)
    tools = tuple(b for b in programs if fit.TOOL in b.tools)
    with tempfile.TemporaryDirectory(prefix="advisor-") as temporary:
        path = Path(str(request["path"])) if "path" in request else Path(temporary) / "dry.gguf"
        if tools and "path" not in request:
            from advisor.execute.runners import gguf_min

            shapes = [(str(name), tuple(shape), str(kind)) for name, shape, kind in request["tensors"]]
            try:
                gguf_min.write_sparse(path, request["metadata"], shapes)
            except (KeyError, OSError):  # a type that the writer does not know, or no disk
                tools = ()
        for binary in tools:
            found = by_program(binary, path, settings, log=folder / "own-fit.log", cancel=cancel, variables=variables)
            if found is not None:
                return found
    if library is not None:
        found = by_library(library, request, log=folder / "own-fit.log", cancel=cancel)
        if found is not None:
            return found
    return EngineFit(engine=None)


def words(found: EngineFit, settings: RunSettings, layers: int) -> str:
    """The engine's choice beside the plan's, in a sentence; ``layers``: of the model, the output matrix included."""
    if found.engine is None:
        return "no provider of llama.cpp that is installed here has a fit of its own, so none is compared"
    if not found.fits or found.context is None or found.gpu_layers is None:
        return f"{found.engine} finds no fit by itself, with {MARGIN >> 30} GiB left free"
    placed = "all layers" if found.gpu_layers < 0 or found.gpu_layers >= layers else f"{found.gpu_layers} layers"
    planned = "all layers" if settings.gpu_layers >= layers else f"{settings.gpu_layers} layers"
    shares = f", shares {','.join(f'{x:g}' for x in found.tensor_split)}" if found.tensor_split else ""
    return (
        f"{found.engine} by itself takes a context of {found.context:,}, and puts {placed} on devices where there are "
        f"any{shares}; this plan has {settings.context:,} and {planned}"
    )
