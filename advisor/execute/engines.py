"""Who can be asked what llama.cpp would allocate: the prebuilt library, and the fitting tool of a CPU program."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from advisor.backends.llama.binary import Binary
from advisor.cost.compute import work_buffer
from advisor.cost.kv import cache_by_layer, cells, state_by_layer
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute.answers import Engine
from advisor.execute.llama import fit
from advisor.execute.oracle import Answer, DryLoad, dry_request
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Settings as RunSettings

if TYPE_CHECKING:
    from advisor.settings import Settings

SERVING_ENV: Final = "llama.cpp"
_MIB: Final = 1 << 20
_HOST: Final = "Host"


@dataclass(frozen=True, slots=True)
class FitTool:
    """A callable ``EngineOracle`` over ``llama-fit-params`` of a program without devices.

    The tool prints whole MiB, and reserves the logits of a whole batch where the server reserves a row a slot. So an
    answer of it bounds the formula: where that lies within, it stands, and otherwise the nearest bound does.
    """

    binary: Binary
    log: Path
    cancel: Cancel | None = None

    def __call__(self, model: ModelFacts, fmt: str, settings: RunSettings, /) -> Answer | None:
        """What serving ``model`` in ``fmt`` on the host would take; ``None`` where the tool does not take the model.

        Raises:
            AdvisorError: ``interrupted``; ``bad-option`` for a format that is not GGUF.
        """
        request = dry_request(model, fmt, settings)
        if "path" in request:
            return self.file(Path(request["path"]), model, settings)
        from advisor.execute.runners import gguf_min

        with tempfile.TemporaryDirectory(prefix="advisor-") as folder:
            path = Path(folder) / "dry.gguf"
            shapes = [(str(name), tuple(shape), str(kind)) for name, shape, kind in request["tensors"]]
            try:
                gguf_min.write_sparse(path, request["metadata"], shapes)
            except (KeyError, OSError):  # a type that the writer does not know, or no disk
                return None
            return self.file(path, model, settings)

    def file(self, path: Path, model: ModelFacts, settings: RunSettings) -> Answer | None:
        """What serving the GGUF file ``path`` of ``model`` would take; ``None`` and errors as for a model."""
        import msgspec

        from advisor.model.tensors import tensors

        on_host = msgspec.structs.replace(settings, gpu_layers=0, cpu_moe_layers=0, tensor_split=None)
        rows = fit.ask(self.binary, path, on_host, log=self.log, cancel=self.cancel) or ()
        host = next((row for row in rows if row.name == _HOST), None)
        if host is None or len(rows) != 1:
            return None
        parts = tensors(model)
        kv = sum(cache_by_layer(model, parts, on_host).values())
        state = sum(state_by_layer(model, parts, on_host).values())
        if (kv + state) // _MIB != host.context_mib:
            kv = max(0, ((host.context_mib + 1) << 20) - state)
        most = (host.compute_mib + 1) << 20
        least = max(0, (host.compute_mib << 20) - fit.spared_bytes(self.binary, on_host, model.vocab))
        work = work_buffer(model, parts, on_host, cells(model, on_host))
        return Answer(
            kv_cache_bytes=kv,
            state_bytes=state,
            compute_bytes=min(max(int(work.value), least), most),
            weights_bytes=None,
            output_bytes=4 * model.vocab * max(settings.parallel, 1),
        )


def engines(settings: Settings, *, cancel: Cancel | None = None) -> tuple[Engine, ...]:
    """Everybody on this machine who can be asked, the most exact first; starts no process where all are known."""
    out = []
    folder = settings.paths.logs / "steps"
    library = _library(settings, folder, cancel)
    if library is not None:
        out.append(library)
    for binary in programs(settings):
        if fit.TOOL in binary.tools and not binary.devices:
            out.append(
                Engine(_name("program", binary.label, binary.server), FitTool(binary, folder / "fit.log", cancel))
            )
    return tuple(out)


def _library(settings: Settings, folder: Path, cancel: Cancel | None) -> Engine | None:
    if not any(settings.paths.envs.glob(f"{SERVING_ENV}-*")):
        return None
    from advisor.execute import envs

    env = envs.find(SERVING_ENV, settings=settings)
    if env is None:
        return None
    return Engine(library_name(env.digest), DryLoad(env, folder / "dryload.log", cancel))


def library_name(digest: str) -> str:
    """The engine's name of the environment ``llama.cpp`` with those pins."""
    return f"library-{digest[:16]}"


def programs(settings: Settings) -> list[Binary]:
    """Servers that were compiled here or stand on PATH, with the tools beside them."""
    from advisor.execute.llama import build, find

    out: list[Binary] = []
    if settings.paths.envs.is_dir():
        out += [build.facts(env, settings).binary for env in build.find_built(settings)]
    tools, _ = find.programs(find.search_path(settings))
    if tools:
        kept = find.facts_of(tools, settings)
        if kept.works is not False:
            out.append(kept.binary)
    return out


def _name(kind: str, *parts: str) -> str:
    import hashlib

    return f"{kind}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def none_installed() -> AdvisorError:
    """What is said where nobody can be asked."""
    return AdvisorError(
        "env-failed",
        f"The environment {SERVING_ENV} is not built, and no llama.cpp with the tool {fit.TOOL} is on this machine, so "
        "the engine cannot be asked.",
        hint=f"advisor env build {SERVING_ENV}",
    )
