"""What an export runs: the command line with what is installed here, or a pinned image with the plan's options."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from advisor.api import daemons, launching
from advisor.api.context import resolve_model, this_machine
from advisor.api.making import Made
from advisor.errors import AdvisorError
from advisor.facts.plan import Plan
from advisor.facts.text import clean, shell_word

if TYPE_CHECKING:
    from advisor.api.providing import Serving
    from advisor.deploy.export.base import Container, Exporter, Program
    from advisor.deploy.spec import LaunchSpec
    from advisor.execute.envs import Env
    from advisor.facts.machine import Machine
    from advisor.facts.recipe import Recipe
    from advisor.settings import Settings

# Fixed: an export must not depend on the PATH of whoever makes it.
_SCRUBBED: Final = {"PYTHONNOUSERSITE": "1", "PYTHONUTF8": "1"}


class Subject(NamedTuple):
    """What is exported: a plan, what it was planned for, and the deployment of it, where there is one."""

    plan: Plan
    ref: str
    vendors: dict[str, str]
    here: bool
    name: str
    served_as: str
    spec: LaunchSpec | None


class Artifact(NamedTuple):
    """Where the weights are, or will be, and the command that makes them there."""

    path: Path
    folder: bool
    bytes: int | None
    made_by: str | None


def cannot(message: str, hint: str | None, *context: str) -> AdvisorError:
    """The error about a plan that a format cannot carry."""
    return AdvisorError("cannot-export", message, hint=hint, context=context)


# -- on this machine -----------------------------------------------------------------------------------------------


def program(
    settings: Settings, to: Exporter, subject: Subject, found: Artifact, host: str, port: int, key_file: str
) -> Program:
    """The command line with what is installed here: the same that ``up`` starts."""
    from advisor.deploy.export.base import Program
    from advisor.settings import probe_variables

    plan = subject.plan
    system = "darwin" if platform.system() == "Darwin" else platform.system().lower()
    if system not in to.systems:
        raise cannot(
            f"{to.title[0].upper()}{to.title[1:]} starts what is installed on its own machine, and this one runs "
            f"{platform.system() or 'another system'}.",
            f"advisor export {'systemd' if system == 'linux' else 'script'} {plan.id}",
            f"on the machine that serves: advisor up, then advisor export {to.name} NAME",
        )
    if not subject.here or not plan.executable_here:
        why = "; ".join(plan.needs) or "it was made for another machine"
        raise cannot(
            f"{to.title[0].upper()}{to.title[1:]} starts what is installed here, and the plan {plan.id} cannot run "
            f"here: {why}.",
            f"advisor export compose {plan.id}",
        )
    machine = this_machine(settings)[0]
    serving, env = _installed(settings, subject, machine)
    made = Made(found.path, None, False, {}, None, (), _recipe(settings, subject))
    daemon = daemons.address(settings) if plan.runtime == "ollama" else None
    command = launching.command_line(plan, subject.served_as, made, env, host, port, key_file, serving, machine, daemon)
    return Program(command.argv, {**_SCRUBBED, **probe_variables(), **command.env})


def _installed(settings: Settings, subject: Subject, machine: Machine) -> tuple[Serving, Env]:
    """What serves the plan here, without building anything.

    Raises:
        AdvisorError: ``tool-missing`` with the command that installs it; ``runtime-unfit``.
    """
    from advisor.api import providing, variants
    from advisor.backends.llama.providers import choose, kind_of
    from advisor.backends.registry import runtimes
    from advisor.execute import envs

    plan, spec = subject.plan, subject.spec
    name = runtimes()[plan.runtime].capabilities().env or plan.runtime
    variant = variants.variant_of(settings, name, on_cpu=plan.devices == ("host",)) if plan.method != "gguf" else None
    env = envs.find(name, settings=settings, variant=variant)
    if env is None:
        build = f"advisor env build {name}" + (f" --variant {variant}" if variant is not None else "")
        raise AdvisorError("tool-missing", f"The environment {name}, which serves the plan, is not built.", hint=build)
    if plan.runtime != "llama.cpp":
        return providing.Serving(plan.runtime, None, env), env
    kind = kind_of(plan.settings, machine, plan.devices)
    split = kind != "cpu" and "host" in plan.devices
    offers = [o for o in providing.offers(settings, machine) if o.state == "works"]
    wanted = spec.provider if spec is not None else None
    try:
        best = choose(plan.settings, kind, offers, wanted=wanted, isa=machine.host.cpu.isa, split=split)
    except AdvisorError as e:
        if e.code == "runtime-unfit":
            e.hint = f"advisor up {plan.id}"
        raise
    return providing.Serving(best.provider, best.binary), env


def _recipe(settings: Settings, subject: Subject) -> Recipe | None:
    """How a checkpoint is to be loaded, where the runtime quantizes while it loads."""
    plan = subject.plan
    if plan.source != "load-time":
        return None
    from advisor.api.checkpoints import recipe_of

    return recipe_of(
        resolve_model(subject.ref, settings),
        method=plan.method,
        fmt=plan.format,
        quantizer=plan.quantizer,
        runtime=plan.runtime,
        parameters=plan.parameters,
        at_load=True,
    )


# -- in a container ------------------------------------------------------------------------------------------------


def container(settings: Settings, subject: Subject, found: Artifact, vendor: str, image: str | None) -> Container:
    """The pinned image of the plan's runtime for its devices, and the plan's options in it."""
    from advisor.backends import images
    from advisor.backends.base import ServeRequest
    from advisor.deploy.export.base import KEY, MODELS, NOBODY, PORT, SHARED_MEMORY, Container

    plan = subject.plan
    if vendor == "unknown":
        raise cannot(
            f"It was not kept who made the devices of the plan {plan.id}, so that no image can be chosen.",
            f"advisor recommend {shell_word(subject.ref)}",
        )
    known = images.images(plan.runtime, vendor)
    pin = known.images[vendor]
    inside = f"{MODELS}/model" + ("" if found.folder else found.path.suffix or ".gguf")
    made = images.contained(
        known,
        ServeRequest(
            settings=plan.settings,
            model_path=inside,
            model_name=subject.served_as,
            host=images.EVERYWHERE,
            port=PORT,
            python="",
            api_key_file=KEY if known.key == "file" else None,
            method=plan.method,
            format=plan.format,
            device=vendor,
            kv_cache_bytes=int(plan.memory.kv_cache.value),
            recipe=_recipe(settings, subject),
        ),
    )
    gpus = tuple(d for d in plan.devices if d != "host")
    ranks = plan.settings.tensor_parallel * plan.settings.pipeline_parallel
    own = os.getuid(), os.getgid()
    uid, gid = own if own[0] != 0 else (NOBODY, NOBODY)
    return Container(
        image=_image(image) if image is not None else pin.image,
        source="named by --image" if image is not None else pin.source,
        entrypoint=known.entrypoint,
        arguments=made.arguments,
        env=made.env,
        probe=tuple(word.replace("{port}", str(PORT)) for word in known.probe),
        key_variable=known.key_variable if known.key == "variable" else None,
        vendor=vendor,
        devices=len(gpus),
        uuids=_uuids(settings, subject, gpus) if vendor == "nvidia" else (),
        shared_bytes=SHARED_MEMORY * ranks if ranks > 1 else 0,
        uid=uid,
        gid=gid,
    )


def _image(name: str) -> str:
    """An image as the user names it, pinned by a tag or a digest.

    Raises:
        AdvisorError: ``bad-option``.
    """
    import re

    plain = re.fullmatch(
        r"[a-z0-9][a-z0-9._/-]*(:[0-9]+/[a-z0-9._/-]+)?(:[A-Za-z0-9_][\w.-]{0,127})?"
        r"(@sha256:[0-9a-f]{64})?",
        name,
        re.ASCII,
    )
    if plain is None or not (plain[2] or plain[3]) or plain[2] == ":latest":
        raise AdvisorError(
            "bad-option",
            f"{clean(name, 120)!r} is not an image pinned by a tag (other than latest) or a digest.",
            hint="advisor export compose NAME --image ghcr.io/ggml-org/llama.cpp:server-v0.5.0",
        )
    return name


def _uuids(settings: Settings, subject: Subject, keys: tuple[str, ...]) -> tuple[str, ...]:
    """UUIDs of the plan's devices where this machine has others beside them; empty where all are meant."""
    if not subject.here:
        return ()
    from advisor.backends import selection

    seen = selection.environment(this_machine(settings)[0].devices, keys)
    return tuple(filter(None, seen.get("CUDA_VISIBLE_DEVICES", "").split(",")))
