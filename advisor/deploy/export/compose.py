"""A file for docker compose."""

from __future__ import annotations

from typing import Any, Final

from advisor.deploy.export import base
from advisor.facts.exports import ExportedFile

# The server takes its key from a variable: it is read inside, so that no file of the host or of Docker's holds it.
_FROM_FILE: Final = '{0}="$(cat {1})" && export {0} && exec "$@"'


class Compose:
    """``compose.yaml`` with one service."""

    name = "compose"
    title = "a file for docker compose"
    needs: Final = "container"
    systems = ("linux", "darwin")

    def files(self, service: base.Service) -> tuple[ExportedFile, ...]:
        """The file: one service, read-only, without privileges, its key a secret out of a file."""
        body = {
            "name": base.label(service.unit),
            "services": {service.name: _doubled(_service(service))},
            "secrets": {"api-key": {"file": _escaped(service.key_file)}},
        }
        text = base.header(service, self.name) + base.yaml_of(body)
        return (ExportedFile(name="compose.yaml", text=text),)

    def steps(self, service: base.Service) -> tuple[str, ...]:
        """Start it and wait until it is healthy."""
        return (
            *base.first_steps(service),
            *base.readable_steps(service),
            f"docker compose up --detach --wait --wait-timeout {base.READY_S}",
        )


def _service(service: base.Service) -> dict[str, Any]:
    c = base.container(service)
    entrypoint, command = list(c.entrypoint), list(c.arguments)
    if c.key_variable is not None:
        entrypoint, command = (
            ["/bin/sh", "-c", _FROM_FILE.format(c.key_variable, base.KEY), "advisor"],
            [*c.entrypoint, *c.arguments],
        )
    out: dict[str, Any] = {
        "image": c.image,
        "entrypoint": entrypoint,
        "command": command,
        "environment": dict(sorted(c.env.items())),
        "user": f"{c.uid}:{c.gid}",
        "init": True,
        "read_only": True,
        "tmpfs": ["/tmp:mode=1777"],  # noqa: S108 - of the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "ports": [{"target": base.PORT, "published": str(service.port), "host_ip": service.host, "protocol": "tcp"}],
        "volumes": [
            {
                "type": "bind",
                "source": str(service.artifact),
                "target": service.inside,
                "read_only": True,
                "bind": {"create_host_path": False},
            }
        ],
        "secrets": [{"source": "api-key", "target": base.KEY}],
        "healthcheck": {
            "test": ["CMD", *c.probe],
            "interval": "15s",
            "timeout": "6s",
            "retries": 4,
            "start_period": f"{base.READY_S}s",
            "start_interval": "2s",
        },
        "restart": "unless-stopped",
        "stop_grace_period": f"{base.STOP_S}s",
        "ulimits": {"core": 0},
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "4"}},
    }
    if service.limit_bytes is not None:
        mib = f"{service.limit_bytes // base.MIB}m"
        out |= {"mem_limit": mib, "memswap_limit": mib}
    if service.cores is not None:
        out["cpus"] = service.cores + base.SERVING_CORES
    if c.shared_bytes:
        out["shm_size"] = f"{c.shared_bytes // base.MIB}m"
    if (service.plan.settings.load_mode or "").endswith("mlock"):
        out["ulimits"]["memlock"] = -1
    return out | _devices(c)


def _devices(c: base.Container) -> dict[str, Any]:
    """The devices, as each vendor's documentation of containers has them."""
    if c.vendor == "nvidia":
        which: dict[str, Any] = {"device_ids": list(c.uuids)} if c.uuids else {"count": c.devices}
        request = {"driver": "nvidia", **which, "capabilities": ["gpu"]}
        return {"deploy": {"resources": {"reservations": {"devices": [request]}}}}
    if c.vendor == "amd":
        return {"devices": ["/dev/kfd:/dev/kfd", "/dev/dri:/dev/dri"], "group_add": ["video", "render"]}
    if c.vendor == "intel":
        return {"devices": ["/dev/dri:/dev/dri"], "group_add": ["video", "render"]}
    return {}


def _escaped(text: str) -> str:
    """Compose replaces variables in every value; ``$$`` is a ``$``."""
    return text.replace("$", "$$")


def _doubled(value: Any) -> Any:
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, list):
        return [_doubled(v) for v in value]
    if isinstance(value, dict):
        return {k: _doubled(v) for k, v in value.items()}
    return value


EXPORT: Final = Compose()
