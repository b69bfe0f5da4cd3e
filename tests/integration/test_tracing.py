"""Spans of OpenTelemetry: of a run, its steps and their batches, as an exporter in memory gets them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.project import ROOT

if TYPE_CHECKING:
    from tests.project import Project

TRACED = """
import json, os
from flask import Flask
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
{setup}
from flask_migrate_mongo import MongoMigrate

app = Flask("shop", root_path=os.environ["ROOT_PATH"])
migrate = MongoMigrate(app)
with trace.get_tracer("a test").start_as_current_span("request"):
    try:
        {call}
    except Exception as exc:
        pass
print(json.dumps([
    {{
        "name": each.name,
        "id": each.context.span_id,
        "parent": each.parent and each.parent.span_id,
        "trace": each.context.trace_id,
        "attributes": dict(each.attributes),
        "status": each.status.status_code.name,
        "message": each.status.description,
        "events": len(each.events),
    }}
    for each in exporter.get_finished_spans()
]))
"""

INSTRUMENTED = """
from opentelemetry.instrumentation.pymongo import PymongoInstrumentor
PymongoInstrumentor().instrument()
"""

BACKFILL = """
def up(db, ctx):
    ctx.backfill("shops", {"$set": {"x": 1}}, batch_size=2, workers=WORKERS)
"""


@dataclass(frozen=True)
class Span:
    name: str
    id: int
    parent: int | None
    trace: int
    attributes: dict[str, Any]
    status: str
    message: str | None
    events: int

    def own(self, name: str) -> Any:
        return self.attributes[f"flask_migrate_mongo.{name}"]


@dataclass(frozen=True)
class Spans:
    """The spans that one process has exported, in the order of their ends."""

    all: tuple[Span, ...]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> Span:
        (found,) = self.named(name)
        return found

    def below(self, span: Span) -> list[Span]:
        return [each for each in self.all if each.parent == span.id]


def traced(project: Project, call: str = "migrate.up(app)", setup: str = "") -> Spans:
    """Run a program that traces itself."""
    done = subprocess.run(
        [sys.executable, "-c", TRACED.format(call=call, setup=setup)],
        env=project.environ(ROOT_PATH=str(project.root)),
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Spans(tuple(Span(**each) for each in json.loads(done.stdout)))


def test_a_run_has_a_span_with_one_for_each_step(project: Project) -> None:
    project.write_inserts(1, 2)
    spans = traced(project)
    assert [span.name for span in spans.all] == [
        "migration up",
        "migration up",
        "migrations up",
        "request",
    ]
    run = spans.one("migrations up")
    assert run.parent == spans.one("request").id
    assert len({span.trace for span in spans.all}) == 1
    steps = spans.below(run)
    assert [(s.own("version"), s.own("name"), s.own("state")) for s in steps] == [
        ("1", "insert", "applied"),
        ("2", "insert", "applied"),
    ]
    for span in (run, *steps):
        assert span.attributes["db.system.name"] == "mongodb"
        assert span.attributes["db.namespace"] == project.db.name
        assert span.own("run_id") == project.record(1)["metadata"]["runId"]
        assert span.status == "UNSET"


def test_a_failed_step_and_its_run_carry_the_error_without_secrets(project: Project) -> None:
    secret = "mongodb://anna:hunter2@db1/shop"
    project.write("1_fails", f"def up(db):\n    raise ValueError('no {secret}')\n")
    spans = traced(project)
    step, run = spans.one("migration up"), spans.one("migrations up")
    assert step.own("state") == "failed"
    assert (step.status, step.message) == ("ERROR", "no mongodb://***@db1/shop")
    assert step.attributes["error.type"] == "ValueError"
    assert (run.status, run.attributes["error.type"]) == ("ERROR", "MigrationFailedError")
    assert "hunter2" not in str(spans)
    assert {span.events for span in spans.all} == {0}


def test_a_run_that_does_not_get_the_lock_has_a_failed_span(project: Project) -> None:
    project.write_inserts(1)
    runner = project.runner()
    with runner.lease.hold(runner.actor("a test")):
        spans = traced(project)
    run = spans.one("migrations up")
    assert (run.status, run.attributes["error.type"]) == ("ERROR", "LockHeldError")
    assert str(run.message).startswith(runner.actor("a test").label)
    assert run.events == 0
    assert spans.below(run) == []


@pytest.mark.parametrize(
    ("call", "name", "states"),
    [
        ("migrate.down(app)", "migrations down", ["rolled-back"]),
        ("migrate.redo(app)", "migrations redo", ["rolled-back", "applied"]),
    ],
)
def test_each_kind_of_run_has_its_name(
    project: Project, call: str, name: str, states: list[str]
) -> None:
    project.write_inserts(1)
    project.runner().up()
    spans = traced(project, call)
    assert [step.own("state") for step in spans.below(spans.one(name))] == states


def test_a_rehearsal_shows_its_scratch_database(project: Project) -> None:
    project.write_inserts(1)
    runs = traced(project, "migrate.rehearse(app)").named("migrations up")
    assert len(runs) >= 2
    assert all(run.own("rehearsal") for run in runs)
    assert project.db.name not in {run.attributes["db.namespace"] for run in runs}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_backfill_has_a_span_for_each_batch_also_in_threads(
    project: Project, workers: int
) -> None:
    project.db.shops.insert_many([{"n": n} for n in range(6)])
    project.write("1_fill", BACKFILL.replace("WORKERS", str(workers)))
    spans = traced(project)
    step = spans.one("migration up")
    batches = spans.named("backfill batch")
    assert sum(batch.own("documents") for batch in batches) == 6
    assert {batch.parent for batch in batches} == {step.id}
    for batch in batches:
        assert batch.attributes["db.collection.name"] == "shops"
        assert batch.attributes["db.namespace"] == project.db.name


def test_processes_of_a_backfill_continue_below_the_step(project: Project) -> None:
    project.db.shops.insert_many([{"n": n} for n in range(4)])
    project.write(
        "1_fill",
        """
        from concurrent.futures import ProcessPoolExecutor
        from opentelemetry import trace

        def position(document):
            return {"$set": {"trace": str(trace.get_current_span().get_span_context().trace_id)}}

        def up(db, ctx):
            with ProcessPoolExecutor(2) as pool:
                ctx.backfill("shops", position, batch_size=2, workers=pool)
        """,
    )
    spans = traced(project)
    expected = str(spans.one("migration up").trace)
    assert {document["trace"] for document in project.db.shops.find()} == {expected}


@pytest.mark.parametrize("transactional", ["True", "False"])
def test_what_the_instrumentation_of_pymongo_sees_in_a_step_is_below_it(
    project: Project, transactional: str
) -> None:
    project.write(
        "1_insert",
        f"transactional = {transactional}\n\ndef up(db):\n    db.done.insert_one({{}})\n",
    )
    spans = traced(project, setup=INSTRUMENTED)
    step = spans.one("migration up")
    inserts = [span for span in spans.all if "insert" in span.name]
    assert inserts
    assert {span.parent for span in inserts} == {step.id}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_it_sees_in_a_batch_is_below_the_batch(project: Project, workers: int) -> None:
    project.db.shops.insert_many([{"n": n} for n in range(6)])
    project.write("1_fill", BACKFILL.replace("WORKERS", str(workers)))
    spans = traced(project, setup=INSTRUMENTED)
    batches = {batch.id for batch in spans.named("backfill batch")}
    updates = [
        span for span in spans.all if "shops" in str(span.attributes) and "update" in span.name
    ]
    assert updates
    assert {span.parent for span in updates} <= batches


def test_a_dry_run_has_no_spans(project: Project) -> None:
    project.write_inserts(1)
    assert [s.name for s in traced(project, "migrate.up(app, dry_run=True)").all] == ["request"]


def test_the_recipe_of_the_page_shows_the_spans_of_a_run(project: Project) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    (source,) = re.findall(r"^```python file=traces.py\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (project.root / "traces.py").write_text(source, encoding="utf-8")
    project.command()
    path = project.root / "app.py"
    path.write_text(f"import traces\n{path.read_text()}")
    project.write_inserts(1)
    done = project.run("up")
    assert done.returncode == 0, done.stderr
    assert '"name": "migrations up"' in done.stdout
    assert '"db.namespace"' in done.stdout


def test_the_page_names_every_attribute(project: Project) -> None:
    project.db.shops.insert_one({})
    project.write("1_fill", BACKFILL.replace("WORKERS", "1"))
    project.write("2_fails", "def up(db): raise ValueError\n")
    found = {name for span in traced(project).all for name in span.attributes}
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert set(re.findall(r"`((?:flask_migrate_mongo|db|error)\.[a-z._]+)`", page)) == {
        *found,
        "flask_migrate_mongo.signals",
    }


# --- without it


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
from app import app
from flask_migrate_mongo import MongoMigrate
MongoMigrate().up(app).raise_for_failure()
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_runs_without_opentelemetry(project: Project, workers: int) -> None:
    project.db.shops.insert_many([{"n": n} for n in range(6)])
    project.write("1_fill", BACKFILL.replace("WORKERS", str(workers)))
    project.command()
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED],
        env=project.environ(),
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert project.db.shops.count_documents({"x": 1}) == 6
    assert "opentelemetry" not in done.stdout + done.stderr
