"""``advisor metrics``: the deployments in Prometheus's text format, written once or served on the loopback address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, get_args

from advisor.api import receipts
from advisor.api.context import load_settings, this_machine
from advisor.api.serving import manager
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.facts.words import DeploymentState

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import CollectorRegistry

    from advisor.deploy.manager import Deployments
    from advisor.facts.results import Deployment
    from advisor.settings import Settings

LOOPBACK: Final = "127.0.0.1"


def metrics(*, settings: Settings | None = None) -> str:
    """What is known of all deployments now, in the text format that Prometheus reads.

    Memory is bytes, times are seconds, speeds are tokens a second. What is unknown is left out, never 0.
    """
    from prometheus_client import generate_latest

    return generate_latest(_registry(load_settings(settings))).decode()


def serve_metrics(port: int, *, settings: Settings | None = None, cancel: Cancel | None = None) -> None:
    """Answer ``http://127.0.0.1:PORT/metrics`` until ``cancel`` is set; every scrape observes anew.

    Raises:
        AdvisorError: ``bad-option``, ``port-taken``.
    """
    from prometheus_client import start_http_server

    if not 1 <= port <= 65535:
        raise AdvisorError("bad-option", f"--port {port}: between 1 and 65535.", hint="advisor metrics --port 9464")
    try:
        server, thread = start_http_server(port, addr=LOOPBACK, registry=_registry(load_settings(settings)))
    except (OSError, OverflowError) as e:
        raise AdvisorError(
            "port-taken", f"{LOOPBACK}:{port} cannot be bound: {e}", hint=f"advisor metrics --port {port + 1}"
        ) from e
    try:
        (cancel or Cancel()).wait_until_set()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _registry(s: Settings) -> CollectorRegistry:
    from prometheus_client.registry import Collector, CollectorRegistry

    class Deployed(Collector):
        def collect(self) -> Iterator[GaugeMetricFamily]:
            return _families(s)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Deployed())
    return registry


def _families(s: Settings) -> Iterator[GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    m = manager(s)
    found = m.survey()[0]

    def family(name: str, help: str, *more: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"advisor_{name}", help, labels=("name", *more))

    up = family("deployment_up", "1 where the deployment answers.", "model", "runtime", "plan")
    states = family("deployment_state", "1 for the state that it is in, 0 for the others.", "state")
    restarts = family("deployment_restarts", "Restarts since it was launched.")
    own = family("deployment_runtime_metrics_info", "Where the runtime serves metrics of its own.", "url")
    for d in found:
        up.add_metric((d.name, d.model, d.runtime, d.plan_id), float(d.state == "ready"))
        for state in get_args(DeploymentState):
            states.add_metric((d.name, state), float(d.state == state))
        restarts.add_metric((d.name,), d.restarts)
        url = _runtime_metrics(d, m)
        if url is not None:
            own.add_metric((d.name, url), 1.0)
    yield from (up, states, restarts, own)
    resident = family("deployment_memory_resident_bytes", "Memory of its processes now.")
    ready = family("deployment_ready_seconds", "From its launch until it answered.")
    for d in found:
        memory, seconds = m.memory(d.name), m.start_seconds(d.name)
        if memory is not None:
            resident.add_metric((d.name,), float(memory.value))
        if seconds is not None:
            ready.add_metric((d.name,), float(seconds.value))
    yield from (resident, ready)
    yield from _receipts(m, found, family)
    machine, _ = this_machine(s)
    if machine.host.memory.available_bytes is not None:
        yield GaugeMetricFamily(
            "advisor_host_memory_available_bytes",
            "Memory that the host grants and that is free.",
            value=machine.host.memory.available_bytes,
        )


def _receipts(m: Deployments, found: tuple[Deployment, ...], family: object) -> Iterator[GaugeMetricFamily]:
    """Predicted and measured of each deployment's receipt."""
    assert callable(family)
    parts = {
        "memory": ("memory_bytes", "Memory: predicted, and measured when it was launched."),
        "decode": ("decode_tokens_per_second", "Decode: predicted, and measured when it was launched."),
        "prefill": ("prefill_tokens_per_second", "Prefill: predicted, and measured when it was launched."),
    }
    kept = [(d, receipts.load(m.folder(d.name))) for d in found]
    for part, (name, help) in parts.items():
        out = family(f"deployment_{name}", help, "how")
        for d, receipt in kept:
            for how in ("predicted", "measured"):
                value = getattr(getattr(receipt, how), part) if receipt is not None else None
                if value is not None:
                    out.add_metric((d.name, how), float(value.value))
        yield out


def _runtime_metrics(d: Deployment, m: Deployments) -> str | None:
    """The address of the runtime's own metrics, where it serves any."""
    if d.runtime in ("vllm", "sglang") or (d.runtime == "llama.cpp" and "--metrics" in m.spec(d.name).argv):
        return f"{d.url}/metrics"
    return None
