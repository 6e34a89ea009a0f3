"""A property list for launchd on macOS: an agent of the user, or a daemon."""

from __future__ import annotations

import shlex
from typing import Any, Final

from advisor.deploy.export import base
from advisor.facts.exports import ExportedFile


class Launchd:
    """``org.llm-advisor.NAME.plist``."""

    name = "launchd"
    title = "a property list of launchd"
    needs: Final = "program"
    systems = ("darwin",)

    def files(self, service: base.Service) -> tuple[ExportedFile, ...]:
        """The property list. launchd restarts a server that fails; it knows neither health checks nor limits on memory.

        Raises:
            AdvisorError: ``cannot-export`` for the system without a user to run as.
        """
        import plistlib

        program = base.program(service)
        system = service.scope == "system"
        logs = f"/Library/Logs/{service.unit}.log" if system else f"/tmp/{service.unit}.log"  # noqa: S108
        body: dict[str, Any] = {
            "Label": _label(service),
            "ProgramArguments": list(program.argv),
            "EnvironmentVariables": dict(sorted(program.env.items())),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 10,
            "ExitTimeOut": base.STOP_S,
            "Umask": 0o077,
            "ProcessType": "Interactive",  # otherwise the scheduler takes it for background work and slows it
            "HardResourceLimits": {"Core": 0},
            "StandardOutPath": logs,
            "StandardErrorPath": logs,
        }
        if system and service.user is not None:
            body["UserName"] = service.user
        text = plistlib.dumps(body, sort_keys=False).decode()
        return (ExportedFile(name=f"{_label(service)}.plist", text=text),)

    def steps(self, service: base.Service) -> tuple[str, ...]:
        """Into the folder of agents or daemons, then load."""
        file = shlex.quote(f"{_label(service)}.plist")
        if service.scope == "system":
            return (
                *base.first_steps(service),
                f"sudo install -m 0644 -o root {file} /Library/LaunchDaemons/",
                f"sudo launchctl bootstrap system /Library/LaunchDaemons/{file}",
            )
        return (
            *base.first_steps(service),
            f"install -m 0644 {file} ~/Library/LaunchAgents/",
            f'launchctl bootstrap "gui/$(id -u)" ~/Library/LaunchAgents/{file}',
        )


def _label(service: base.Service) -> str:
    return f"org.llm-advisor.{service.name}"


EXPORT: Final = Launchd()
