"""Deployments in Prometheus's text format, read back with its own parser."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from advisor import api, events
from advisor import settings as settings_
from advisor.api import receipts, scraping
from advisor.errors import AdvisorError
from tests.support.samples import sample_receipt
from tests.unit.deploy.rig import Rig, wait_for


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(settings_.load().paths.deployments)
    yield made
    made.clean_up()


def values(text: str) -> dict[tuple[str, ...], float]:
    """Samples by name and the values of their labels, the deployment's first."""
    return {
        (
            s.name.removeprefix("advisor_"),
            *(s.labels[k] for k in sorted(s.labels, key=lambda k: (k != "name", k))),
        ): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_without_deployments_only_the_host_is_told() -> None:
    found = values(api.metrics())
    assert list(found) == [("host_memory_available_bytes",)]
    assert found["host_memory_available_bytes",] > 0


def test_a_deployment_is_told_while_it_runs_and_afterwards(rig: Rig) -> None:
    spec = rig.spec(model='a "quoted"\nname\\')
    rig.deployments.launch(spec)
    receipts.save(rig.folder(), sample_receipt())
    found = values(api.metrics())
    assert found["deployment_up", "one", spec.model, "p-1", "llama.cpp"] == 1
    assert found["deployment_state", "one", "ready"] == 1
    assert found["deployment_state", "one", "failed"] == 0
    assert found["deployment_restarts", "one"] == 0
    assert found["deployment_memory_resident_bytes", "one"] > 1 << 20
    assert found["deployment_ready_seconds", "one"] > 0
    assert found["deployment_memory_bytes", "one", "predicted"] == 400 * 2**20
    assert found["deployment_memory_bytes", "one", "measured"] == 390 * 2**20
    assert ("deployment_prefill_tokens_per_second", "one", "measured") not in found  # unknown, not 0
    assert not [key for key in found if key[0] == "deployment_runtime_metrics_info"]  # it was started without
    rig.deployments.stop("one")
    found = values(api.metrics())
    assert found["deployment_up", "one", spec.model, "p-1", "llama.cpp"] == 0
    assert found["deployment_state", "one", "stopped"] == 1
    assert ("deployment_memory_resident_bytes", "one") not in found


def test_a_runtime_with_metrics_of_its_own_is_pointed_to(rig: Rig) -> None:
    plain = rig.spec()
    rig.deployments.launch(rig.spec("--metrics", port=plain.port))
    assert ("deployment_runtime_metrics_info", "one", f"http://127.0.0.1:{plain.port}/metrics") in values(api.metrics())


def test_every_scrape_observes_anew_until_cancelled(rig: Rig) -> None:
    port, cancel = rig.port(), events.Cancel()
    server = threading.Thread(target=api.serve_metrics, args=(port,), kwargs={"cancel": cancel})
    server.start()

    def scrape() -> str | None:
        try:
            with urllib.request.urlopen(f"http://{scraping.LOOPBACK}:{port}/metrics", timeout=5) as reply:
                return str(reply.read().decode())
        except (urllib.error.URLError, ConnectionError):
            return None

    try:
        first = wait_for(scrape, "the first scrape")
        assert not [key for key in values(first) if key[0] == "deployment_up"]
        rig.deployments.launch(rig.spec())
        assert values(scrape() or "")["deployment_state", "one", "ready"] == 1
        with pytest.raises(AdvisorError) as e:
            api.serve_metrics(port)
        assert e.value.code == "port-taken"
    finally:
        cancel.set()
        server.join(10)
    assert not server.is_alive()
    assert scrape() is None
    with pytest.raises(AdvisorError, match="between 1 and 65535"):
        api.serve_metrics(70000)
