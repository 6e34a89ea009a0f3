"""``advisor export``: a kept plan or a deployment in the words of systemd, podman, compose, Kubernetes, Ollama ..."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from advisor.api import export_parts, keeping, launching
from advisor.api.context import load_settings, this_machine
from advisor.api.export_parts import Artifact, Subject, cannot
from advisor.errors import AdvisorError
from advisor.facts.exports import Export
from advisor.facts.plan import Plan
from advisor.facts.text import clean, shell_word

if TYPE_CHECKING:
    from advisor.deploy.export.base import Exporter, Service
    from advisor.settings import Settings

Scope = Literal["user", "system"]


def formats() -> dict[str, str]:
    """All formats by name, in a few words each."""
    from advisor.deploy.export import formats as known

    return {name: e.title for name, e in known().items()}


def export(
    format: str,
    name_or_plan: str | Plan,
    *,
    name: str | None = None,
    scope: Scope = "user",
    user: str | None = None,
    host: str | None = None,
    port: int | None = None,
    image: str | None = None,
    artifact: Path | str | None = None,
    settings: Settings | None = None,
) -> Export:
    """A deployment, or a kept plan, in the words of another system; nothing is written, built or started.

    ``format``: one of ``formats()``. ``name``: of the service; the deployment's, or the model's by default. ``scope``:
    a service of the user's own, or of the system's, which runs as ``user``. ``host`` and ``port``: where clients reach
    it; the deployment's, or as set. ``image``: another container image with the same program. ``artifact``: where the
    weights are, or will be, on the machine that serves.

    Raises:
        AdvisorError: ``word-not-found`` (format), ``deployment-not-found``, ``plan-not-found``, ``cannot-export`` for
            what the format cannot carry, ``tool-missing`` or ``runtime-unfit`` where what serves is not installed here,
            ``bad-option``, ``state-unreadable``; and what the runtime's own command line raises.
    """
    asked = name_or_plan if isinstance(name_or_plan, str) else name_or_plan.id
    s = load_settings(settings)
    try:
        return _export(
            s, format, name_or_plan, name, scope=scope, user=user, host=host, port=port, image=image, artifact=artifact
        )
    except AdvisorError as e:
        # What was asked for stands in the hint, so that it can be run as it is.
        e.hint = e.hint.replace(" FORMAT ", f" {clean(format, 40)} ") if e.hint is not None else None
        e.hint = e.hint.replace(" NAME", f" {shell_word(asked)}", 1) if e.hint is not None else None
        raise


def _export(
    s: Settings,
    format: str,
    name_or_plan: str | Plan,
    name: str | None,
    *,
    scope: Scope,
    user: str | None,
    host: str | None,
    port: int | None,
    image: str | None,
    artifact: Path | str | None,
) -> Export:
    from advisor.deploy.export import exporter
    from advisor.deploy.export.base import Service, limit
    from advisor.deploy.spec import check_name

    to = exporter(format)
    subject = _subject(s, name_or_plan)
    wanted = name or subject.name
    check_name(wanted)
    _check_scope(to, scope, user)
    plan, spec = subject.plan, subject.spec
    found = _artifact(s, subject, wanted, artifact)
    _check_text("the weights", str(found.path))
    if host is not None:
        _check_host(host)
    endpoint = launching.endpoint_of(s, host or (spec.host if spec else None), port or (spec.port if spec else None))
    key = spec.api_key_file if spec is not None and spec.api_key_file is not None else None
    key_file = key or str(Path(s.paths.state) / "keys" / wanted)
    vendor = next((subject.vendors.get(d, "unknown") for d in plan.devices if d != "host"), "cpu")
    on_host = plan.memory.by_device.get("host")
    program = container = None
    if to.needs == "program":
        program = export_parts.program(s, to, subject, found, endpoint.host, endpoint.port, key_file)
    elif to.needs == "container":
        container = export_parts.container(s, subject, found, vendor, image)
    elif plan.method != "gguf":
        raise cannot(
            f"Ollama loads GGUF files, and the plan {plan.id} makes {plan.format} of {plan.method}.",
            f"advisor recommend {shell_word(subject.ref)} --runtime ollama",
        )
    if image is not None and container is None:
        raise AdvisorError("contradictory-options", f"--image names a container's, and {format} has no containers.")
    service = Service(
        name=wanted,
        plan=plan,
        served_as=subject.served_as,
        host=endpoint.host,
        port=endpoint.port,
        health_path=_health_path(plan),
        key_file=key_file,
        artifact=found.path,
        folder=found.folder,
        artifact_bytes=found.bytes,
        made_by=found.made_by,
        limit_bytes=limit(on_host.value, on_host.high, container.shared_bytes if container else 0) if on_host else None,
        predicted_bytes=int(on_host.value) if on_host is not None else None,
        cores=plan.settings.threads,
        scope=scope,
        user=user or (_owner(found.path) if scope == "system" and to.needs == "program" else None),
        python=sys.executable,
        program=program,
        container=container,
    )
    files = to.files(service)
    return Export(
        format=format,
        name=wanted,
        plan_id=plan.id,
        text=files[0].text,
        files=files,
        steps=to.steps(service),
        notes=_notes(service),
        image=container.image if container is not None else None,
    )


# -- what is exported ----------------------------------------------------------------------------------------------


def _subject(settings: Settings, what: str | Plan) -> Subject:
    from advisor.api.serving import manager
    from advisor.deploy.spec import slug

    deployments = manager(settings)
    if isinstance(what, Plan) or keeping.PLAN_ID.match(what):
        plan_id = what.id if isinstance(what, Plan) else what
        kept = _kept(settings, what)
        running = deployments.find_plan(plan_id)
        spec = deployments.spec(running.name) if running is not None else None
    else:
        try:
            spec = deployments.spec(what)
        except AdvisorError as e:
            if e.code == "deployment-not-found":
                e.context = (*e.context, "a plan is named by its id, which `advisor recommend` shows")
            raise
        kept = keeping.find(settings, spec.plan_id)
    plan = kept.plan
    if spec is not None and spec.settings is not None:
        plan = msgspec.structs.replace(plan, settings=spec.settings, memory=spec.memory or plan.memory)
    served = slug(plan.model.rsplit("/", 1)[-1])
    here = kept.machine == keeping.OWN
    vendors = kept.vendors or ({d.id: d.vendor for d in this_machine(settings)[0].devices} if here else {})
    named = spec.name if spec is not None else served
    return Subject(plan, kept.model_ref, vendors, here, named, spec.model if spec is not None else served, spec)


def _kept(settings: Settings, what: str | Plan) -> keeping.KeptPlan:
    if isinstance(what, str):
        return keeping.find(settings, what)
    kept = keeping.find(settings, what.id)
    return msgspec.structs.replace(kept, plan=what)


def _artifact(settings: Settings, subject: Subject, name: str, given: Path | str | None) -> Artifact:
    """Where the weights are: as named, where a deployment has them, where the model lies; or where they will be."""
    plan, spec = subject.plan, subject.spec
    folder = plan.method != "gguf"
    if given is not None:
        path = Path(given).expanduser().absolute()
        return Artifact(path, folder, _size(path), None if path.exists() else _making(subject, path))
    if spec is not None:
        path = Path(spec.artifact)
        return Artifact(path, path.is_dir(), _size(path), None)
    local = Path(subject.ref).expanduser().absolute()
    if plan.source in ("as-is", "load-time") and local.exists():
        return Artifact(local, local.is_dir(), _size(local), None)
    file = name if folder else f"{name}-{plan.format}{'-mixed' if plan.tensor_types else ''}.gguf"
    path = Path(settings.paths.state) / "exports" / file
    return Artifact(path, folder, _size(path), None if path.exists() else _making(subject, path))


def _making(subject: Subject, path: Path) -> str:
    """The command that puts the plan's artifact at ``path``.

    Raises:
        AdvisorError: ``cannot-export`` where no single command does.
    """
    from advisor.planner import asked

    plan = subject.plan
    if plan.source != "quantize":
        raise cannot(
            f"The weights of the plan {plan.id} are not on this machine yet, and they are fetched, not made.",
            f"advisor up {plan.id}",
            f"or say where they are: advisor export FORMAT {plan.id} --artifact PATH",
        )
    words = ["advisor", "quantize", subject.ref, "--method", plan.method, "--format", plan.format]
    words += [word for named in plan.tensor_types for word in ("--tensor-type", named)]
    words += ["--quantizer", plan.quantizer] if plan.quantizer is not None and plan.method != "gguf" else []
    calibration, adapter = asked.calibration(plan.parameters), plan.parameters.get(asked.ADAPTER)
    words += ["--calibration", str(calibration)] if calibration is not None else []
    words += ["--adapter", str(adapter)] if adapter is not None else []
    return shlex.join((*words, "--out", str(path)))


def _size(path: Path) -> int | None:
    from advisor.execute.disk import tree_bytes

    if path.is_dir():
        return tree_bytes(path)
    return path.stat().st_size if path.is_file() else None


def _health_path(plan: Plan) -> str:
    from advisor.backends.registry import runtimes

    return runtimes()[plan.runtime].health_path


def _check_host(host: str) -> None:
    """Refuse what is neither an address nor ``localhost``: formats publish on addresses, not on names.

    Raises:
        AdvisorError: ``bad-option``.
    """
    import ipaddress

    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        if host != "localhost":
            raise AdvisorError(
                "bad-option",
                f"{clean(host, 80)!r} is no address to serve on.",
                hint="advisor export FORMAT NAME --host 127.0.0.1",
            ) from None


def _check_text(what: str, text: str) -> None:
    """Refuse a path with characters that end a line, or that no file can hold."""
    if clean(text, None, one_line=False) != text or "\n" in text or "\t" in text:
        raise AdvisorError(
            "bad-option",
            f"{what}: the path has control characters, which no format can carry safely: {clean(text, 200)}",
            hint="advisor export FORMAT NAME --artifact PATH",
        )


def _check_scope(to: Exporter, scope: Scope, user: str | None) -> None:
    import re

    if user is not None and scope != "system":
        raise AdvisorError(
            "contradictory-options", "--user says as whom a service of the system runs; say --scope system, too."
        )
    if user is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,30}\$?", user):
        raise AdvisorError("bad-option", f"{clean(user, 40)!r} is not the name of a user.")
    if user == "root":
        raise AdvisorError(
            "bad-option",
            "A server does not need root; name another user.",
            hint=f"advisor export {to.name} NAME --scope system --user NAME",
        )


def _owner(path: Path) -> str:
    """The user whose the artifact is (or who exports): as whom a service of the system can read it.

    Raises:
        AdvisorError: ``bad-option`` where that is root.
    """
    import pwd

    uid = path.stat().st_uid if path.exists() else os.getuid()
    if uid == 0:
        raise AdvisorError(
            "bad-option",
            "The files are root's, and a server is not run as root: say as whom the service runs.",
            context=[f"that user must be able to read {clean(str(path), 400)} and advisor's environments"],
            hint="advisor export systemd NAME --scope system --user NAME",
        )
    return pwd.getpwuid(uid).pw_name


# -- what a person should know -------------------------------------------------------------------------------------


def _notes(service: Service) -> tuple[str, ...]:
    from advisor.deploy.export.base import MIB

    out = []
    if service.made_by is not None:
        out.append(f"The weights are not there yet: {service.made_by} makes them.")
    if service.container is not None:
        image = service.container.image
        out.append(f"The image {image} was not pulled by advisor ({service.container.source}).")
        if "@" not in image:
            out.append(
                "Whoever owns the tag can move it. A digest cannot be moved: `docker buildx imagetools inspect "
                f"{image}` tells it, and --image {image}@sha256:... takes it."
            )
    if service.program is None and service.container is None:
        out.append("Ollama asks for no key and heeds no limit on memory: keep it on loopback (OLLAMA_HOST).")
        return tuple(out)
    if service.limit_bytes is not None:
        out.append(
            f"At {service.limit_bytes // MIB} MiB of host memory, the upper end of what the plan predicts, the system "
            "stops it, where the format can say so."
        )
    out.append(f"Clients need the key in {service.key_file}; the files name it and do not hold it.")
    return tuple(out)
