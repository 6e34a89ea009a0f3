"""The unit that starts a deployment again after a reboot: no format of its own, ``up --restart`` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from advisor._version import __version__
from advisor.deploy.export import units
from advisor.deploy.spec import LaunchSpec

WANTED_BY: Final = "default.target.wants"


def file_name(name: str) -> str:
    """The unit's file."""
    return f"advisor-{name}.service"


def unit(spec: LaunchSpec, program: tuple[str, ...], env: Mapping[str, str]) -> str:
    """The unit: ``program restart NAME`` at the start, ``program down NAME`` at the stop.

    advisor's own supervisor and the server stay in the unit's control group, and are seen by ``advisor status``.
    """
    lines = (
        f"# Made by advisor {__version__}: advisor up --restart always",
        "[Unit]",
        f"Description={units.text(f'{spec.model} in {spec.runtime} (advisor, plan {spec.plan_id})')}",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        *units.environment(env),
        f"ExecStart={units.command((*program, 'restart', spec.name, '--quiet'))}",
        f"ExecStop={units.command((*program, 'down', spec.name, '--quiet'))}",
        f"TimeoutStartSec={int(spec.ready_timeout_s) + 60}",
        f"TimeoutStopSec={int(spec.stop_grace_s) + 30}",
        "UMask=0077",
        "LimitCORE=0",
        "",
        "[Install]",
        "WantedBy=default.target",
    )
    return "\n".join(lines) + "\n"
