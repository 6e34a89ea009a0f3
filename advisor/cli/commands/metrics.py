"""``advisor metrics``."""

from __future__ import annotations

from ..command import command
from ..options import option
from ..params import COUNT
from ..run import Run


@command(
    "metrics",
    "advisor metrics                            # once, for a textfile collector",
    "advisor metrics --port 9464                # http://127.0.0.1:9464/metrics, until interrupted",
)
@option("--port", type=COUNT, help="Serve them on 127.0.0.1 at this port until interrupted.")
def metrics(run: Run, port: int | None) -> None:
    """Write the deployments' state, memory and speeds in Prometheus's text format."""
    from advisor import api
    from advisor.facts.schemas import MetricsData

    if port is not None:
        with run.working() as work:
            run.sink.note(f"http://127.0.0.1:{port}/metrics, until interrupted")
            api.serve_metrics(port, settings=run.settings, cancel=work.cancel)
        return
    text = api.metrics(settings=run.settings)
    if run.sink.mode != "json":
        run.sink.raw(text)
        return
    run.sink.result(run.command, MetricsData(text=text), human=lambda page: page.lines(text))
