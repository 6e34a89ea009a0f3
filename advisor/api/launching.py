"""Launching a plan's runtime, and the first question to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from advisor.api import daemons
from advisor.api.making import Made
from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Plan
from advisor.facts.results import Deployment

if TYPE_CHECKING:
    from advisor.api.providing import Serving
    from advisor.backends.base import Command, Runtime
    from advisor.deploy.manager import Deployments
    from advisor.deploy.spec import Fallback, LaunchSpec
    from advisor.execute.envs import Env
    from advisor.execute.steps import Steps
    from advisor.facts.machine import Machine
    from advisor.facts.recovery import LadderStep
    from advisor.settings import Settings

_LOG_LINES: Final = 5000
_READY_TIMEOUT_S: Final = 900.0
# Levels of llama.cpp's log in builds that have both.
_LEVEL, _TRACE, _DEBUG = "--verbosity", "4", "5"


class Endpoint(NamedTuple):
    """Where to serve; ``explicit``: the user named the port, so no other one is taken instead."""

    host: str
    port: int
    explicit: bool


def deployment_name(model: ModelFacts) -> str:
    """The name that a deployment gets when none is given: the model's, without its owner, in lower case."""
    from advisor.deploy.spec import slug

    return slug(model.name.rsplit("/", 1)[-1])


def endpoint_of(settings: Settings, host: str | None, port: int | None) -> Endpoint:
    """Where to serve: as asked, else as set."""
    named = port is not None or settings.values["port"].origin != "default"
    return Endpoint(
        host or str(settings.get("host")), port if port is not None else int(settings.get("port")), explicit=named
    )


def free_port(deployments: Deployments, name: str, endpoint: Endpoint) -> int:
    """The port to serve on. One that the deployment ``name`` itself holds is its own affair: launching looks at that.

    Raises:
        AdvisorError: ``port-taken`` or ``bad-option``.
    """
    from advisor.deploy import ports

    ended = ("stopped", "failed", "lost")
    own = {d.port for d in deployments.list() if d.name == name and d.state not in ended}
    if endpoint.explicit and endpoint.port in own:
        return endpoint.port
    return ports.choose(*endpoint[:2], explicit=endpoint.explicit, avoid=deployments.spoken_for())


def launch(
    settings: Settings,
    steps: Steps,
    deployments: Deployments,
    plan: Plan,
    model: ModelFacts,
    made: Made,
    env: Env,
    name: str,
    endpoint: Endpoint,
    serving: Serving | None = None,
    machine: Machine | None = None,
    provider: str | None = None,
    recover: str | None = None,
    lower: tuple[LadderStep, ...] = (),
) -> tuple[Deployment, str | None]:
    """Start the plan's runtime under supervision, as a step; the deployment and its key, where it has one.

    ``serving``: the programs that serve; without, or for the wheel, the environment ``env`` does. ``machine``: whose
    devices the plan names; the server sees those alone. ``provider``: the one that the user asked for; a deployment
    of the plan by another one is in the way. ``recover``, ``lower``: what the supervisor does when memory runs out
    under traffic.

    Raises:
        AdvisorError: as ``Deployments.launch``, with the runtime's own diagnosis of its log.
    """
    from advisor.backends.causes import SAID_BY_RUNTIMES
    from advisor.backends.registry import runtimes
    from advisor.deploy import ports
    from advisor.execute.steps import Outcome, Step

    runtime = runtimes()[plan.runtime]
    at_host, _, explicit = endpoint
    key_file = None if ports.is_loopback(at_host) else str(deployments.key_file(name))
    serves = serving.provider if serving is not None and plan.runtime == "llama.cpp" else None
    daemon = daemons.address(settings) if plan.runtime == "ollama" else None

    def run() -> Outcome[Deployment]:
        at = free_port(deployments, name, endpoint)

        def command_of(wanted: Plan, p: int) -> Command:
            return command_line(
                wanted, deployment_name(model), made, env, at_host, p, key_file, serving, machine, daemon
            )

        def spec_at(p: int) -> LaunchSpec:
            command = command_of(plan, p)
            spec = _spec(plan, model, made, runtime, name, at_host, p, command, explicit=explicit, key_file=key_file)
            return msgspec.structs.replace(
                spec,
                provider=serves,
                recover=recover or str(settings.get("recover")),
                fallbacks=tuple(_fallback(step, command_of(step.plan, p)) for step in lower),
                oom_patterns=SAID_BY_RUNTIMES,
                watch_devices=_watched(plan, machine),
            )

        started = deployments.launch(
            spec_at(at),
            ready=runtime.ready,
            reporter=steps.reporter,
            cancel=steps.cancel,
            at_port=None if explicit else spec_at,
            provider=provider,
        )
        return Outcome(started, detail=f"{started.name} at {started.url}")

    try:
        started = steps.do(Step("launch", run))
    except AdvisorError as e:
        # The cause may stand far above the last lines that the error carries.
        found = runtime.diagnose("\n".join((e.message, *e.context, *_log(deployments, name))))
        if found is not None:
            e.context = (*e.context, f"diagnosis ({found.code}): {found.message}", f"remedy: {found.remedy}")
            e.data["finding"] = found.to_json()
        raise
    return started, read_key(started.api_key_file)


def _fallback(step: LadderStep, command: Command) -> Fallback:
    from advisor.deploy.spec import Fallback
    from advisor.settings import server_environment

    return Fallback(
        plan_id=step.plan.id,
        change=step.change,
        given_up=step.given_up,
        device=step.device,
        frees_bytes=step.frees_bytes,
        argv=command.argv,
        env={**server_environment(), **command.env},
    )


def _watched(plan: Plan, machine: Machine | None) -> tuple[dict[str, str], ...]:
    """The plan's devices whose memory can be read from time to time. A runtime that reserves its share when it starts
    takes no more later."""
    if machine is None or plan.settings.gpu_memory_utilization is not None:
        return ()
    out = []
    for d in machine.devices:
        name = {"nvidia": d.uuid, "amd": d.pci}.get(d.vendor)
        if d.id in plan.devices and name and not d.unified_memory:
            out.append({"id": d.id, "vendor": d.vendor, "uuid" if d.vendor == "nvidia" else "pci": name})
    return tuple(out)


def _only(plan: Plan, machine: Machine | None, serving: Serving | None) -> tuple[str, ...]:
    """Options that keep a server with Vulkan off the devices that the plan does not name."""
    from advisor.backends import selection

    binary = serving.binary if serving is not None else None
    if binary is None or machine is None or plan.settings.gpu_layers == 0:
        return ()
    names = selection.vulkan_names(machine.vulkan, plan.devices, binary.devices)
    option = binary.has("--device", "-dev")
    return (option, ",".join(names)) if names and option is not None else ()


def _telling(plan: Plan, serving: Serving | None) -> tuple[str, ...]:
    """Options with which a server on devices logs the sizes of its buffers, which say what a device held when its
    memory ran out. Older builds do so by themselves; what users ask is logged one level above."""
    binary = serving.binary if serving is not None else None
    if binary is None or plan.settings.gpu_layers == 0 or _DEBUG not in binary.words(_LEVEL):
        return ()
    return (_LEVEL, _TRACE)


def _log(deployments: Deployments, name: str) -> tuple[str, ...]:
    """The log of the deployment's last launch, or nothing where there is none."""
    try:
        return deployments.run_log(name, _LOG_LINES)
    except AdvisorError:
        return ()


def launched_notes(deployments: Deployments, name: str, plan: Plan, machine: Machine) -> tuple[str, ...]:
    """What the server's log says against the plan: a kernel that is not the one meant, with its remedy; or what only
    a daemon that is not advisor's can do for the plan."""
    if plan.runtime == "ollama":
        return daemons.notes(plan)
    if plan.runtime != "vllm":
        return ()
    from advisor.backends.vllm.kernels import kernel_finding

    device = next((d for d in machine.devices if d.id in plan.devices), None)
    found = kernel_finding(
        plan.method,
        plan.format,
        "\n".join(_log(deployments, name)),
        device=device.vendor if device is not None else "cpu",
        compute_capability=device.compute_capability if device is not None else None,
    )
    return () if found is None else (f"{found.code}: {found.message} {found.remedy}",)


def command_line(
    plan: Plan,
    served_as: str,
    made: Made,
    env: Env,
    host: str,
    port: int,
    key_file: str | None,
    serving: Serving | None,
    machine: Machine | None,
    daemon: str | None = None,
) -> Command:
    """The command that serves a plan on this machine, kept to the devices that the plan names.

    Raises:
        AdvisorError: as the runtime's ``serve``.
    """
    from advisor.backends import selection
    from advisor.backends.base import ServeRequest
    from advisor.backends.llama import commands
    from advisor.backends.registry import runtimes
    from advisor.execute.proc import RUNNERS

    runtime = runtimes()[plan.runtime]
    if serving is not None and serving.binary is not None and runtime.name == "llama.cpp":
        command = commands.serve(
            plan.settings,
            serving.binary,
            model_path=str(made.artifact),
            model_name=served_as,
            host=host,
            port=port,
            api_key_file=key_file,
        )
    else:
        vendors = {d.id: d.vendor for d in machine.devices} if machine is not None else {}
        command = runtime.serve(
            ServeRequest(
                settings=plan.settings,
                model_path=str(made.artifact),
                model_name=served_as,
                host=host,
                port=port,
                python=(serving.env if serving is not None and serving.env is not None else env).python,
                runner=str(RUNNERS / runtime.runner) if runtime.runner is not None else "",
                api_key_file=key_file,
                method=plan.method,
                format=plan.format,
                device=next((vendors[key] for key in plan.devices if key in vendors), "cpu"),
                kv_cache_bytes=int(plan.memory.kv_cache.value),
                recipe=made.recipe,
                daemon=daemon,
            )
        )
    seen = selection.environment(machine.devices, plan.devices) if machine is not None else {}
    return msgspec.structs.replace(
        command,
        argv=(*command.argv, *_only(plan, machine, serving), *_telling(plan, serving)),
        env={**command.env, **seen},
    )


def _spec(
    plan: Plan,
    model: ModelFacts,
    made: Made,
    runtime: Runtime,
    name: str,
    host: str,
    port: int,
    command: Command,
    *,
    explicit: bool,
    key_file: str | None,
) -> LaunchSpec:
    from advisor.deploy.spec import LaunchSpec
    from advisor.settings import server_environment

    served_as = deployment_name(model)
    return LaunchSpec(
        name=name,
        plan_id=plan.id,
        model=served_as,
        artifact=str(made.artifact),
        runtime=plan.runtime,
        argv=command.argv,
        env={**server_environment(), **command.env},
        cwd=command.cwd,
        host=host,
        port=port,
        port_explicit=explicit,
        health_path=runtime.health_path,
        ready_timeout_s=_READY_TIMEOUT_S,
        api_key_file=key_file,
        settings=plan.settings,
        memory=plan.memory,
    )


def read_key(path: str | None) -> str | None:
    """The key in a file, ``None`` without one."""
    return Path(path).read_text(encoding="utf-8").strip() if path else None


def smoke(steps: Steps, deployments: Deployments, deployment: Deployment, model: ModelFacts, key: str | None) -> str:
    """Ask the endpoint a question, as a step; its answer.

    Raises:
        AdvisorError: ``smoke-failed``.
    """
    from advisor.deploy.client import smoke
    from advisor.execute.steps import Outcome, Step

    def run() -> Outcome[str]:
        reply = smoke(
            deployment.openai_base_url,
            deployment.model,
            has_chat_template=model.chat_template is not False,
            api_key=key,
        )
        return Outcome(reply.text, detail=reply.text)

    return steps.do(Step("smoke", run))
