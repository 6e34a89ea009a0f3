"""A systemd unit, of the user's own manager or of the system."""

from __future__ import annotations

import shlex
from typing import Final

from advisor.deploy.export import base, units
from advisor.facts.exports import ExportedFile

# Work in a user's own manager without a namespace of its own, which many systems do not grant it.
_HARDENED: Final = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
)
# Need the system's manager: the artifact, and everything else but the cache, is mounted read-only.
_CONFINED: Final = (
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "RestrictNamespaces=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
)
ASK: Final = "import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)"


def waiting(service: base.Service) -> tuple[str, ...]:
    """A command that ends once requests are served."""
    loop = 'until "$0" -I -c "$1" "$2" 2>/dev/null; do sleep 1; done'
    return ("/bin/sh", "-c", loop, service.python, ASK, service.url)


class Systemd:
    """``advisor-NAME.service``."""

    name = "systemd"
    title = "a systemd unit"
    needs: Final = "program"
    systems = ("linux",)

    def files(self, service: base.Service) -> tuple[ExportedFile, ...]:
        """The unit. ``systemctl start`` returns once requests are served."""
        system = service.scope == "system"
        program = base.program(service)
        lines = [
            *units.unit(service, *(("After=network.target",) if system else ())),
            "[Service]",
            "Type=exec",
            *((f"User={units.text(service.user)}",) if system and service.user is not None else ()),
            *units.environment(program.env),
            f"ExecStart={units.command(program.argv)}",
            f"ExecStartPost={units.command(waiting(service))}",
            f"TimeoutStartSec={base.READY_S}",
            f"TimeoutStopSec={base.STOP_S}",
            "Restart=on-failure",
            "RestartSec=2",
            *self._limits(service),
            "UMask=0077",
            "LimitCORE=0",
            *_HARDENED,
            *(self._confined(service) if system else ()),
            *units.install(service),
        ]
        return (ExportedFile(name=f"{service.unit}.service", text=units.file_text(service, self.name, lines)),)

    def _limits(self, service: base.Service) -> tuple[str, ...]:
        memory, cores = service.limit_bytes, service.cores
        return (
            *((f"MemoryMax={memory}", "MemorySwapMax=0") if memory is not None else ()),
            *((f"CPUQuota={(cores + base.SERVING_CORES) * 100}%",) if cores is not None else ()),
        )

    def _confined(self, service: base.Service) -> tuple[str, ...]:
        paths = (str(service.artifact), service.key_file, *base.program(service).argv)
        read = " ".join(units.word(p, dollars=False) for p in paths[:2])
        gpus = any(d != "host" for d in service.plan.devices)
        shared = any(p.startswith(("/tmp/", "/var/tmp/")) for p in paths)  # noqa: S108 - would not be seen in its own
        # What a runtime compiles and caches goes to a folder of the service's own.
        return (
            *_CONFINED,
            *(() if shared else ("PrivateTmp=yes",)),
            *(() if gpus else ("PrivateDevices=yes",)),
            f"ReadOnlyPaths={read}",
            f"CacheDirectory={service.unit}",
            f"Environment=HOME=%C/{service.unit}",
        )

    def steps(self, service: base.Service) -> tuple[str, ...]:
        """Into the manager's folder, then enable."""
        file = f"{service.unit}.service"
        if service.scope == "system":
            return (
                *base.first_steps(service),
                f"sudo install -m 0644 {file} /etc/systemd/system/{file}",
                "sudo systemctl daemon-reload",
                f"sudo systemctl enable --now {file}",
            )
        folder = "~/.config/systemd/user"
        return (
            *base.first_steps(service),
            f"mkdir -p {folder} && install -m 0644 {shlex.quote(file)} {folder}/",
            "systemctl --user daemon-reload",
            f"systemctl --user enable --now {file}",
            "loginctl enable-linger",  # at boot, not only while the user is logged in
        )


EXPORT: Final = Systemd()
