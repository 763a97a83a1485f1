"""What `client.stats()` gives, in the format of Prometheus, on loopback. Read from the engine whenever somebody asks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from djinn.engine.engine import Engine
from djinn.errors import BadRequest
from djinn.paging.pager import MOVED

log = logging.getLogger(__name__)


class EngineCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        sessions = GaugeMetricFamily("djinn_sessions", "Open sessions by state.", labels=["state"])
        for state, count in stats.pop("sessions").items():
            sessions.add_metric([state], count)
        yield sessions
        often = CounterMetricFamily("djinn_waits", "How often the compute waited.", labels=["for"])
        long = CounterMetricFamily("djinn_wait_seconds", "How long the compute waited.", labels=["for"])
        for name, value in stats.pop("waits").items():
            if name.endswith("_ns"):
                long.add_metric([name.removesuffix("_ns")], value / 1e9)
            else:
                often.add_metric([name], value)
        yield often
        yield long
        for name, value in stats.items():
            kind = CounterMetricFamily if name in MOVED else GaugeMetricFamily
            yield kind(f"djinn_{name}", name.replace("_", " "), value=value)


def serve_metrics(engine: Engine, port: int) -> Callable[[], None]:
    """Answer GET /metrics on 127.0.0.1 from a thread of its own (port 0: a free one, told in the log); returns what ends it.

    Raises BadRequest where the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, "127.0.0.1", registry)
    except OSError as error:
        raise BadRequest(f"--metrics-port {port}: {error.strerror}") from error
    log.info("metrics at http://127.0.0.1:%d/metrics", server.server_port)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
