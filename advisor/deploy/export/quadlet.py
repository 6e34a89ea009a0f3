"""A quadlet: podman makes a systemd unit of it (podman 5.0 or newer)."""

from __future__ import annotations

import csv
import io
import shlex
from typing import Final

from advisor.deploy.export import base, units
from advisor.facts.exports import ExportedFile


class Quadlet:
    """``advisor-NAME.container``."""

    name = "quadlet"
    title = "a quadlet of podman"
    needs: Final = "container"
    systems = ("linux",)

    def files(self, service: base.Service) -> tuple[ExportedFile, ...]:
        """The quadlet. Its unit counts as started once requests are served, and is started again where they are not."""
        c = base.container(service)
        lines = [
            *units.unit(service),
            "[Container]",
            f"ContainerName={service.unit}",
            f"Image={c.image}",
            f"Exec={units.words(c.arguments)}",
            *units.environment(c.env),
            f"Mount={units.word(_mount(service))}",
            f"Secret={_secret(service)}",
            f"PublishPort={_published(service)}",
            f"User={c.uid}",
            f"Group={c.gid}",
            *((f"UserNS=keep-id:uid={c.uid},gid={c.gid}",) if service.scope == "user" else ()),
            "ReadOnly=true",
            "Tmpfs=/tmp",
            "DropCapability=all",
            "NoNewPrivileges=true",
            "RunInit=true",
            "Ulimit=core=0",
            *(("Ulimit=memlock=-1",) if (service.plan.settings.load_mode or "").endswith("mlock") else ()),
            *((f"ShmSize={c.shared_bytes // base.MIB}m",) if c.shared_bytes else ()),
            *_devices(c),
            *_limits(service),
            f"HealthCmd={units.text(shlex.join(c.probe))}",
            "HealthInterval=15s",
            "HealthTimeout=6s",
            "HealthRetries=4",
            f"HealthStartPeriod={base.READY_S}s",
            "HealthOnFailure=kill",
            "Notify=healthy",
            "",
            "[Service]",
            "Restart=always",
            "RestartSec=2",
            f"TimeoutStartSec={base.READY_S}",
            f"TimeoutStopSec={base.STOP_S * 2}",
            *units.install(service),
        ]
        return (ExportedFile(name=f"{service.unit}.container", text=units.file_text(service, self.name, lines)),)

    def steps(self, service: base.Service) -> tuple[str, ...]:
        """The key as a secret of podman's, the file into the folder of quadlets."""
        sudo, ctl, folder = "", "systemctl --user", "~/.config/containers/systemd"
        if service.scope == "system":
            sudo, ctl, folder = "sudo ", "sudo systemctl", "/etc/containers/systemd"
        file = f"{service.unit}.container"
        return (
            *base.first_steps(service),
            *base.readable_steps(service)[:1],  # podman keeps the key itself
            f"tr -d '\\n' < {shlex.quote(service.key_file)} | {sudo}podman secret create {service.unit}-api-key -",
            f"{sudo}mkdir -p {folder} && {sudo}install -m 0644 {file} {folder}/",
            f"{ctl} daemon-reload",
            f"{ctl} start {service.unit}",
            *(("loginctl enable-linger",) if service.scope == "user" else ()),
        )


def _mount(service: base.Service) -> str:
    """podman reads the fields as one line of CSV."""
    out = io.StringIO()
    fields = ("type=bind", f"source={service.artifact}", f"destination={service.inside}", "ro=true")
    csv.writer(out, lineterminator="").writerow(fields)
    return out.getvalue()


def _secret(service: base.Service) -> str:
    c, name = base.container(service), f"{service.unit}-api-key"
    if c.key_variable is not None:
        return f"{name},type=env,target={c.key_variable}"
    return f"{name},type=mount,target={base.KEY},uid={c.uid},gid={c.gid},mode=0400"


def _published(service: base.Service) -> str:
    host = f"[{service.host}]" if ":" in service.host and not service.host.startswith("[") else service.host
    return f"{host}:{service.port}:{base.PORT}"


def _limits(service: base.Service) -> tuple[str, ...]:
    words = []
    if service.limit_bytes is not None:
        words += [f"--memory={service.limit_bytes}b", f"--memory-swap={service.limit_bytes}b"]
    if service.cores is not None:
        words.append(f"--cpus={service.cores + base.SERVING_CORES}")
    return (f"PodmanArgs={' '.join(words)}",) if words else ()


def _devices(c: base.Container) -> tuple[str, ...]:
    """NVIDIA's through the container device interface; AMD's and Intel's as device files, with the user's groups."""
    if c.vendor == "nvidia":
        return tuple(f"AddDevice=nvidia.com/gpu={one}" for one in (c.uuids or ("all",)))
    if c.vendor == "amd":
        return ("AddDevice=/dev/kfd", "AddDevice=/dev/dri", "GroupAdd=keep-groups")
    if c.vendor == "intel":
        return ("AddDevice=/dev/dri", "GroupAdd=keep-groups")
    return ()


EXPORT: Final = Quadlet()
