"""Staying with a deployment: ``up --foreground`` for containers, and ``up --restart`` for after a reboot."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from advisor.api.context import load_settings
from advisor.api.serving import manager
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.facts.exports import Export, ExportedFile
from advisor.facts.results import Deployment
from advisor.settings import Settings, folder_variables, user_config

_RUNS_SYSTEMD: Final = Path("/run/systemd/system")  # sd_booted(3)
_LINGER: Final = Path("/var/lib/systemd/linger")


def attend(
    name: str,
    *,
    cancel: Cancel,
    line: Callable[[str], None] | None = None,
    settings: Settings | None = None,
) -> Deployment:
    """Stay with a deployment until it ends, or until ``cancel`` is set, which ends it; its last state.

    ``line`` is told what the server writes. A server that crashes is started again meanwhile, as without this.

    Raises:
        AdvisorError: ``server-failed`` where it ended by itself and was not started again; ``deployment-not-found``.
    """
    m = manager(load_settings(settings))
    for text in m.follow(name, cancel=cancel):
        if line is not None:
            line(text)
    if cancel.is_set:
        return m.stop(name)
    ended = m.get(name)
    if ended.state in ("failed", "lost"):
        raise AdvisorError(
            "server-failed",
            f"Deployment {name} ended: {ended.reason or ended.state}",
            hint=f"advisor logs {name} -n 200",
            data={"name": name},
        )
    return ended


def check_boot(*, booted: Path = _RUNS_SYSTEMD) -> None:
    """Refuse where nothing here could start a deployment after a reboot.

    Raises:
        AdvisorError: ``unsupported-system``.
    """
    if not booted.is_dir():
        raise AdvisorError(
            "unsupported-system",
            "This system was not started by systemd, so that advisor has nobody to start the deployment after a "
            "reboot.",
            context=["in a container: `advisor up --foreground` and the container's own restart policy"],
            hint="advisor export script NAME",
        )


def at_boot(name: str, *, settings: Settings | None = None) -> Export:
    """The unit of the user's own systemd that starts the deployment ``name`` after a reboot; nothing is written.

    It runs ``advisor restart``, so that supervision, logs and ``advisor status`` are as before.

    Raises:
        AdvisorError: ``deployment-not-found``, ``state-unreadable``.
    """
    from advisor.deploy.export import boot

    s = load_settings(settings)
    spec = manager(s).spec(name)
    program = (sys.executable, "-m", "advisor")
    text = boot.unit(spec, program, folder_variables())
    file = boot.file_name(name)
    folder = user_config() / "systemd" / "user"
    return Export(
        format="systemd",
        name=name,
        plan_id=spec.plan_id,
        text=text,
        files=(ExportedFile(name=str(folder / file), text=text),),
        steps=(f"systemctl --user enable {file}", "loginctl enable-linger"),
        notes=(f"`advisor down {name}` ends it until the next boot; `systemctl --user disable {file}` for good.",),
    )


def install_at_boot(made: Export, *, linger: Path = _LINGER) -> tuple[str, ...]:
    """Write the unit of ``at_boot`` where systemd finds it, enabled; what is left for the user to do.

    Raises:
        AdvisorError: ``not-writable``, ``disk-full``.
    """
    import pwd

    from advisor.deploy.export import boot
    from advisor.execute.disk import disk_errors, make_folders, write_atomic

    path = Path(made.files[0].name)
    wants = path.parent / boot.WANTED_BY
    make_folders(wants)
    with disk_errors(path):
        write_atomic(path, made.text.encode())
        link = wants / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(f"../{path.name}")
    try:
        stays = (linger / pwd.getpwuid(os.getuid()).pw_name).exists()
    except (OSError, KeyError):  # it may not be looked at, or the user has no name
        stays = False
    return () if stays else ("loginctl enable-linger",)
