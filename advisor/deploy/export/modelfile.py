"""A Modelfile for Ollama, with what only its daemon decides beside it."""

from __future__ import annotations

import shlex
from typing import Final

from advisor.backends import ollama
from advisor.deploy.export import base, units
from advisor.facts.exports import ExportedFile

_DROP_IN: Final = "ollama-advisor.conf"


class Modelfile:
    """``Modelfile``, and a drop-in for ``ollama.service`` where the plan needs more than a model's parameters."""

    name = "modelfile"
    title = "a Modelfile for Ollama"
    needs: Final = "gguf"
    systems = ("linux", "darwin")

    def files(self, service: base.Service) -> tuple[ExportedFile, ...]:
        """The Modelfile: weights and parameters; the chat template is the GGUF file's own.

        Raises:
            AdvisorError: ``cannot-export`` for what Ollama has no parameter for; ``not-available`` for a type of the KV
                cache that it lacks; ``bad-option`` for a path or a name that it cannot take.
        """
        settings, path = service.plan.settings, str(service.artifact)
        if settings.cpu_moe_layers or settings.tensor_split:
            what = "experts on the host" if settings.cpu_moe_layers else "shares of several devices"
            raise base.cannot(
                f"Ollama has no parameter for {what}, which the plan {service.plan.id} needs; it decides that itself.",
                f"advisor export script {service.plan.id}",
            )
        if path != path.strip():
            raise base.cannot(
                "Ollama cuts spaces off the ends of a path in a Modelfile.",
                f"advisor export {self.name} {service.plan.id} --artifact PATH",
            )
        ollama.check_name(service.name)
        daemon = ollama.daemon_environment(settings)
        made = ollama.modelfile(path, settings)
        out = (ExportedFile(name="Modelfile", text=base.header(service, self.name) + made),)
        if settings.parallel == 1 and settings.kv_type == "f16":
            return out
        lines = ("[Service]", *units.environment(daemon))
        drop_in = base.header(service, self.name, "What Ollama's daemon decides for all models.")
        return (*out, ExportedFile(name=_DROP_IN, text=drop_in + "\n".join(lines) + "\n"))

    def steps(self, service: base.Service) -> tuple[str, ...]:
        """Make the model; the drop-in first."""
        daemon: tuple[str, ...] = ()
        if len(self.files(service)) > 1:
            folder = "/etc/systemd/system/ollama.service.d"
            daemon = (
                f"sudo install -D -m 0644 {_DROP_IN} {folder}/advisor.conf",
                "sudo systemctl daemon-reload && sudo systemctl restart ollama",
            )
        made = (service.made_by,) if service.made_by is not None else ()
        return (*made, *daemon, f"ollama create {shlex.quote(service.name)} -f Modelfile")


EXPORT: Final = Modelfile()
