"""Traces of requests: steps in order under the caller's trace, nothing of a request's values, nothing where off."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from holdfast.core.errors import BadConfig
from holdfast.serving.tracing import Tracing, require
from holdfast.workspace import Workspace
from tests.serving.world import add_package, arm, in_process, put_release, serving

pytest.importorskip("opentelemetry.sdk")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ROW = {"a": 0.123456789, "b": 0.25}


def traced(workspace: Workspace, headers: dict[str, str], *, log: str = "buffered", body: Any = None) -> list[Any]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def story(replica: Any, ask: Any) -> None:
        replica.tracing = Tracing(provider, service="toy", environment="production", replica="0")
        await ask("POST", "/predict", body if body is not None else {"rows": [ROW, ROW]}, headers)

    in_process(workspace, story, log=log)
    return list(exporter.get_finished_spans())


@pytest.mark.parametrize("log", ["buffered", "durable"])
def test_the_steps_lie_in_order_inside_the_callers_trace(workspace: Workspace, log: str) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    *steps, root = traced(workspace, {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}, log=log)
    assert [s.name for s in steps] == ["decode", "validate", "features", "model", "log"]
    assert root.name == "POST /predict" and f"{root.context.trace_id:032x}" == TRACE
    assert f"{root.parent.span_id:016x}" == PARENT and root.context.trace_state.get("vendor") == "1"
    instants = [root.start_time, *(t for s in steps for t in (s.start_time, s.end_time)), root.end_time]
    assert instants == sorted(instants)
    assert all(s.parent.span_id == root.context.span_id for s in steps)
    assert root.attributes["holdfast.version"] == 1 and root.attributes["holdfast.rows"] == 2
    assert "0.1234" not in json.dumps([s.to_json() for s in (*steps, root)])


def test_a_callers_no_is_kept_and_nonsense_begins_a_new_trace(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    assert traced(workspace, {"traceparent": f"00-{TRACE}-{PARENT}-00"}) == []
    for nonsense in ("", "00-xyz-1-01", "0" * 5000, "00-" + "0" * 32 + "-" + "0" * 16 + "-01"):
        *_, root = traced(workspace, {"traceparent": nonsense})
        assert root.parent is None and root.attributes["http.response.status_code"] == 200


def test_a_refused_request_is_a_trace_too(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    (root,) = traced(workspace, {}, body={"rows": [{"a": "x", "b": 1}]})
    assert 400 <= root.attributes["http.response.status_code"] < 500


class Collector:
    """An OTLP/HTTP collector that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                import gzip

                from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

                data = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    data = gzip.decompress(data)
                if self.path == "/v1/traces":
                    for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
                        outer.spans += [s for scope in resource.scope_spans for s in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Collector:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_collector_gets_them_through_the_balancer(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    with Collector() as collector:
        with serving(workspace, "--replicas", "2", "--traces", collector.url) as server:
            server.until_version(1)
            for _ in range(5):
                assert (
                    server.ask("POST", "/predict", {"rows": [ROW]}, {"traceparent": f"00-{TRACE}-{PARENT}-01"})[0]
                    == 200
                )
        roots = [s for s in collector.spans if s.parent_span_id.hex() == PARENT]
        assert len(roots) == 5 and {s.trace_id.hex() for s in roots} == {TRACE}


def test_a_collector_that_is_away_costs_nobody(workspace: Workspace) -> None:
    put_release(workspace, 1, arm(1, add_package(workspace)))
    with serving(workspace, "--replicas", "1", "--traces", "http://127.0.0.1:9") as server:
        server.until_version(1)
        assert all(server.predict(ROW)[0] == 200 for _ in range(20))


def test_what_is_no_collector_is_said_at_once() -> None:
    with pytest.raises(BadConfig):
        require("localhost:4318")


def test_off_loads_nothing_of_it(workspace: Workspace) -> None:
    import subprocess
    import sys

    code = "import sys; from holdfast.server import dataplane; sys.exit(any(m.startswith('opentelemetry') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
