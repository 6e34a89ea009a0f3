"""``advisor export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..command import command
from ..options import option
from ..run import Run


@command(
    "export",
    "advisor export systemd my-model",
    "advisor export compose p-3f2a9c --out .",
    "advisor export kubernetes p-3f2a9c --out ./manifests --image ghcr.io/ggml-org/llama.cpp:server-cuda-v0.5.0",
    "advisor export modelfile my-model --out Modelfile",
)
@click.argument("format", metavar="FORMAT")
@click.argument("what", metavar="NAME|PLAN_ID")
@option("--out", type=click.Path(path_type=Path), metavar="PATH", help="Write a file, or into a folder that is there.")
@option("--name", metavar="NAME", help="Name of the service; the deployment's, or the model's by default.")
@option(
    "--scope",
    type=click.Choice(("user", "system"), case_sensitive=False),
    default="user",
    show_default=True,
    help="Whose service manager starts it (systemd, quadlet, launchd).",
)
@option("--user", metavar="NAME", help="As whom a service of the system runs; the owner of the files by default.")
@option("--host", metavar="ADDRESS", help="Address to serve on; only this machine can reach it by default.")
@option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="Port to serve on.")
@option(
    "--image",
    metavar="IMAGE:TAG",
    help="Another container image with the same program in it; IMAGE:TAG@sha256:... fixes it for good.",
)
@option(
    "--artifact",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where the weights are, or will be, on the machine that serves.",
)
def export(run: Run, format: str, what: str, out: Path | None, **options: Any) -> None:
    """Write a deployment or a kept plan in the words of another system.

    FORMAT is systemd, quadlet, compose, kubernetes, launchd, modelfile or script. Without --out the file goes to
    standard output, and what to do with it to standard error. The key is named in the files, never in them.
    """
    from advisor import api

    from ..views import export as view

    made = api.export(format.lower(), what, settings=run.settings, **options)
    view.show(run, made, view.write(made, out) if out is not None else ())
