"""Calibration, ranking, robustness, resources, signature, served answers, layers: an honest model passes, a broken one
fails by the right name, and what could not be measured holds."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from worlds import context, honest, package, sigmoid, world

from holdfast import formats
from holdfast.core.definitions import (
    Rule,
    calibrated,
    deterministic,
    latency,
    pipeline,
    ranking,
    resources,
    robust,
    signature,
    unit_tests,
)
from holdfast.core.errors import BadDefinition
from holdfast.core.identity import file_sha256
from holdfast.core.records import Evidence, FieldSpec, FileRef, Verdict
from holdfast.validation import served
from holdfast.validation.evidence import Context, always, measure
from holdfast.validation.gate import decide


def judge(made: Context, *rules: Rule) -> Verdict:
    return decide(measure(made, rules), rules, model="m", version=1, content="c", at=0)


def failures(verdict: Verdict) -> set[tuple[str, str | None]]:
    return {(r.check, r.group) for r in verdict.results if r.outcome == "fail"}


class TestCalibration:
    def test_true_scores_pass_and_sharpened_ones_fail(self) -> None:
        x, y, _ = world(4000)
        assert judge(context(x, y), calibrated(max_error=0.02)).outcome == "pass"
        sharp = lambda r: sigmoid(6 * (r[:, 0] + r[:, 1]))  # noqa: E731
        assert failures(judge(context(x, y, sharp), calibrated(max_error=0.05))) == {("calibration", None)}
        assert judge(context(x[:300], y[:300]), calibrated()).outcome == "not enough evidence"

    def test_scores_that_are_no_probabilities(self) -> None:
        x, y, _ = world(1000)
        verdict = judge(context(x, y, lambda r: r[:, 0]), calibrated())
        assert "no probabilities" in verdict.results[0].message and verdict.outcome == "fail"

    def test_multiclass_by_the_class_that_is_said(self) -> None:
        rng = np.random.default_rng(0)
        p = rng.dirichlet([1, 1, 1], 4000)
        y = np.array([rng.choice(3, p=row) for row in p])
        made = package(3, task="multiclass", classes=[0, 1, 2])
        assert judge(context(p, y, lambda r: r, package=made), calibrated(max_error=0.03)).outcome == "pass"
        boasting = lambda r: (r**4) / (r**4).sum(axis=1, keepdims=True)  # noqa: E731
        assert judge(context(p, y, boasting, package=made), calibrated(max_error=0.03)).outcome == "fail"


def test_ranking_by_a_column_of_the_rows() -> None:
    x, y, _ = world(4000)
    query = np.arange(4000) // 20
    rule = ranking("ndcg", 0.7, by="q", k=5)
    verdict = judge(context(x, y, groups={"q": query}), rule)
    assert verdict.outcome == "pass" and verdict.results[0].check == "ndcg@5(by q)" and verdict.results[0].n == 200
    assert judge(context(-x, y, groups={"q": query}), rule).outcome == "fail"
    assert judge(context(x, y), rule).outcome == "not enough evidence"
    assert judge(context(x[:200], y[:200], groups={"q": query[:200]}), rule).outcome == "not enough evidence"


def sane(rows: Any) -> Any:
    """As honest, for any rows: missing is average, far out is clipped."""
    return honest(np.clip(np.nan_to_num(rows, nan=0.0, posinf=5, neginf=-5), -5, 5))


class TestRobustness:
    def test_a_sane_model_passes(self) -> None:
        x, y, _ = world(3000)
        verdict = judge(context(x, y, sane), robust(max_drop=0.05))
        assert verdict.outcome == "pass"
        assert {r.group for r in verdict.results} == {
            "missing values", "extreme values", "values never seen", "scattered missing values",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("spoil", "group"),
        [
            (lambda r: np.where(np.isnan(r[:, 1]), np.nan, sane(r)), "missing values"),
            (lambda r: np.where(np.abs(r[:, 1]) > 1e299, np.nan, sane(r)), "extreme values"),
            (lambda r: np.where(np.abs(r[:, 1]) > 1e20, 7.0, sane(r)), "extreme values"),
            (lambda r: np.where(r[:, 1] == -1.0, np.inf, sane(r)), "values never seen"),
        ],
    )
    def test_each_way_to_break_is_named_with_its_input(self, spoil: Any, group: str) -> None:
        x, y, _ = world(500)
        verdict = judge(context(x, y, spoil), robust(max_drop=1.0))
        assert ("robustness", group) in failures(verdict)
        assert any("x1" in r.message for r in verdict.results if r.outcome == "fail")

    def test_a_model_that_raises_on_missing_values(self) -> None:
        x, y, _ = world(500)

        def strict(rows: Any) -> Any:
            if np.isnan(rows).any():
                raise ValueError("Input X contains NaN")
            return sane(rows)

        verdict = judge(context(x, y, strict), robust())
        assert failures(verdict) == {("robustness", "missing values"), ("robustness", "scattered missing values")}
        never = package(3)
        inputs = [msgspec.structs.replace(f, nullable=False) for f in never.inputs]
        verdict = judge(context(x, y, strict, package=msgspec.structs.replace(never, inputs=inputs)), robust())
        assert verdict.outcome == "pass"  # serving refuses such requests by name, so the model never meets them

    def test_what_missing_values_cost_is_paired(self) -> None:
        x, y, _ = world(4000, strength=4.0)
        costly = lambda r: np.where(np.isnan(r).any(axis=1), 0.01, sane(r))  # noqa: E731
        verdict = judge(context(x, y, costly), robust(max_drop=0.02, share=0.2))
        assert failures(verdict) == {("robustness", "scattered missing values")}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real package in a folder: (package, folder, predictor, x, y)."""
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path_factory.mktemp("package")
    x, y, _ = world(1500)
    fitted = LogisticRegression().fit(x, y)
    saved = formats.save(fitted, folder, sample=x[:100], task="binary", columns=["x0", "x1", "x2"])
    made = msgspec.structs.replace(package(3), format=saved.format, model_file=saved.model_file)
    made = msgspec.structs.replace(made, files={n: _ref(folder / n) for n in saved.files})
    predictor = formats.load(folder, made)
    rows = [
        {"inputs": {f"x{i}": float(v) for i, v in enumerate(row)}, "score": float(s)}
        for row, s in zip(x[:5], predictor.scores(x[:5]), strict=True)
    ]
    (folder / "golden.json").write_text(json.dumps({"rows": rows}))
    made = msgspec.structs.replace(
        made, golden_file="golden.json", files={**made.files, "golden.json": _ref(folder / "golden.json")}
    )
    return made, folder, predictor, x, y


def _ref(path: Path) -> FileRef:
    return FileRef(sha256=file_sha256(path), size=path.stat().st_size)


def of(real: Any, **more: Any) -> Context:
    made, folder, predictor, x, y = real
    return Context(predictor, more.pop("package", made), x, y, folder=folder, **more)


class TestResources:
    def test_bytes_are_counted(self, real: Any) -> None:
        verdict = judge(of(real), resources(size="10MB", memory="2GB"))
        assert verdict.outcome == "pass"
        size, memory = verdict.results
        assert size.figure == sum(f.stat().st_size for f in real[1].iterdir())
        assert memory.figure is not None and 2e7 < memory.figure < 1e9

    def test_each_bound_fails_by_its_name(self, real: Any) -> None:
        assert failures(judge(of(real), resources(size="1K", memory="1M"))) == {
            ("resources", "size"), ("resources", "memory"),
        }  # fmt: skip

    def test_without_a_package_it_holds(self) -> None:
        x, y, _ = world(100)
        assert judge(context(x, y), resources()).outcome == "not enough evidence"
        with pytest.raises(BadDefinition, match="no size"):
            resources(size="big")


def test_what_is_vouched_for_here_may_run_in_the_second_process(tmp_path: Path) -> None:
    """A pickle runs in the fresh processes if and only if this process was allowed to run it."""
    import pickle

    from sklearn.linear_model import LogisticRegression

    x, y, _ = world(300)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(LogisticRegression().fit(x, y)))
    file = _ref(tmp_path / "model.pkl")
    made = msgspec.structs.replace(package(3), format="pickle", model_file="model.pkl", files={"model.pkl": file})
    vouched = lambda value: value == file.sha256  # noqa: E731
    predictor = formats.load(tmp_path, made, trusted=vouched)
    rules = (deterministic(), resources())
    assert judge(Context(predictor, made, x, y, folder=tmp_path, trusted=vouched), *rules).outcome == "pass"
    assert failures(judge(Context(predictor, made, x, y, folder=tmp_path), resources())) == {("resources", "memory")}
    refused = judge(Context(predictor, made, x, y, folder=tmp_path), deterministic())
    assert refused.outcome == "fail" and "pickle" in refused.results[0].message


class TestSignature:
    def test_a_real_package_passes(self, real: Any) -> None:
        verdict = judge(of(real), signature())
        assert verdict.outcome == "pass" and len(verdict.results) == 3

    def test_an_example_that_is_answered_otherwise(self, real: Any, tmp_path: Path) -> None:
        made, folder, predictor, x, y = real
        other = json.loads((folder / "golden.json").read_bytes())
        other["rows"][3]["score"] += 0.01
        (tmp_path / "golden.json").write_text(json.dumps(other))
        verdict = judge(Context(predictor, made, x, y, folder=tmp_path), signature())
        assert failures(verdict) == {("signature", "input example")}

    def test_a_model_that_takes_any_width_and_a_package_that_states_nothing(self, real: Any) -> None:
        x, y, _ = world(100)
        bare = msgspec.structs.replace(package(3), outputs=[], classes=[])
        verdict = judge(context(x, y, package=bare), signature())
        assert failures(verdict) == {("signature", "inputs and outputs"), ("signature", "width")}
        assert verdict.results[1].outcome == "not enough evidence"
        twice = [FieldSpec(name="x0", dtype="float64")] * 3
        verdict = judge(of(real, package=msgspec.structs.replace(real[0], inputs=twice)), signature())
        assert ("signature", "inputs and outputs") in failures(verdict)

    def test_it_is_always_kept(self, real: Any) -> None:
        kept = always(of(real), [])
        assert {e.check for e in kept} == {"signature", "slices(accuracy)", "curves"} and kept[0].layer == "unit"
        assert {e.check for e in always(of(real), [signature()])} == {"slices(accuracy)", "curves"}


class Server(BaseHTTPRequestHandler):
    """Answers like a replica; ``behave`` says how it errs."""

    behave: str = ""
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    count = 0

    def do_POST(self) -> None:
        row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["rows"][0]
        type(self).count += 1
        score = float(sigmoid(row["x0"]))
        status = 200
        if self.behave == "moody":
            score += 1e-3 * (self.count % 7)
        if self.behave == "by order" and next(iter(row)) != "x0":
            score += 0.01
        if self.behave == "refuses" and self.count > 30 and self.count % 5 == 0:
            status = 500
        body = json.dumps({"predictions": [{"id": f"p{self.count}", "score": score}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (Server,), {"behave": getattr(request, "param", ""), "count": 0})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()


def asked(url: str) -> Context:
    """A context whose model was asked over HTTP for its first 50 rows."""
    x, y, _ = world(300)
    requests = [{f"x{i}": v for i, v in enumerate(row)} for row in x[:50].tolist()]
    found = served.ask(url, requests, calls=120)
    inputs = x[np.arange(len(found.scores)) % 50]
    found = served.Served(**{**vars(found), "inputs": inputs})
    return context(x, y, lambda r: sigmoid(np.nan_to_num(np.clip(r[:, 0], -9, 9))), served=found)


class TestServed:
    RULES = (latency(served_p50="2s", served_p99="5s"), deterministic(served=True), robust(max_drop=1.0))

    def test_an_honest_server_passes(self, server: str) -> None:
        made = asked(server)
        assert made.served is not None and len(made.served.seconds) == 120 and made.served.refused == 0
        verdict = judge(made, *self.RULES)
        assert verdict.outcome == "pass"
        groups = {r.group for r in verdict.results}
        assert {
            "served p50",
            "served p99",
            "twice over HTTP",
            "in process against HTTP",
            "order of the fields",
        } <= groups

    @pytest.mark.parametrize(
        ("server", "group"),
        [("moody", "twice over HTTP"), ("by order", "order of the fields"), ("refuses", "served p99")],
        indirect=["server"],
    )
    def test_each_fault_is_named(self, server: str, group: str) -> None:
        assert group in {name for _, name in failures(judge(asked(server), *self.RULES))}

    def test_slow_answers_fail_by_their_quantile(self, server: str) -> None:
        made = asked(server)
        assert failures(judge(made, latency(served_p95="1us"))) == {("latency", "served p95")}

    def test_other_inputs_than_ours_are_another_score(self, server: str) -> None:
        made = asked(server)
        assert made.served is not None
        made.served.inputs[:, 0] += 0.5
        assert ("determinism", "in process against HTTP") in failures(judge(made, deterministic(served=True)))

    def test_nobody_there_holds_or_fails_but_never_passes(self) -> None:
        x, y, _ = world(300)
        assert judge(context(x, y), latency(served_p99="1s")).outcome == "not enough evidence"
        assert judge(context(x, y), deterministic(served=True)).outcome == "not enough evidence"
        gone = served.ask("http://127.0.0.1:9", [{"x0": 1.0}], calls=3)
        assert gone.refused == 5 and gone.scores == [None] * 3 and "no answer" in gone.problems[0]
        assert judge(context(x, y, served=gone), latency(served_p99="1s")).outcome == "fail"


def test_layers_are_run_by_who_hands_them_in() -> None:
    x, y, _ = world(100)
    assert judge(context(x, y), unit_tests(), pipeline()).outcome == "not enough evidence"
    ran = [Evidence(check="unit", figure=0.0, n=3, layer="unit", details={"satisfied": "3 tests pass"})]
    assert judge(context(x, y, layers={"unit": lambda rule: ran}), unit_tests()).outcome == "pass"
