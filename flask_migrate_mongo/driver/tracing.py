"""Spans of OpenTelemetry where it is installed: of a run, of its steps, and of the batches of their backfills."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from flask_migrate_mongo.model.errors import capture
from flask_migrate_mongo.model.values import ErrorInfo

try:
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    IS_INSTALLED = False
else:
    IS_INSTALLED = True

OWN = "flask_migrate_mongo."
"""The beginning of the attributes for which OpenTelemetry has no name."""

Attributes = Mapping[str, str | int]


class Span:
    """A span that is open; without OpenTelemetry, nothing."""

    def __init__(self, recorded: trace.Span | None = None) -> None:
        self._recorded = recorded

    def set(self, name: str, value: str | int) -> None:
        """Set an attribute of our own."""
        if self._recorded is not None:
            self._recorded.set_attribute(OWN + name, value)

    def fail(self, error: ErrorInfo) -> None:
        """Mark the span as failed, with an error whose secrets are masked."""
        if self._recorded is not None:
            self._recorded.set_attribute("error.type", error.type)
            self._recorded.set_status(trace.StatusCode.ERROR, error.message)


@contextlib.contextmanager
def span(name: str, database: str, attributes: Attributes) -> Iterator[Span]:
    """Open a span, which is the current one in the block; an exception marks it as failed."""
    if not IS_INSTALLED:
        yield Span()
        return
    tracer = trace.get_tracer("flask_migrate_mongo")
    of_database = {"db.system.name": "mongodb", "db.namespace": database}
    # It would record the exception itself with its traceback, and mask no secrets.
    opened = tracer.start_as_current_span(
        name,
        attributes={**of_database, **attributes},
        record_exception=False,
        set_status_on_exception=False,
    )
    with opened as recorded:
        found = Span(recorded)
        try:
            yield found
        except BaseException as exc:
            found.fail(capture(exc))
            raise


def position() -> dict[str, str]:
    """Describe the current span, for a thread or a process that continues below it."""
    carrier: dict[str, str] = {}
    if IS_INSTALLED:
        TraceContextTextMapPropagator().inject(carrier)
    return carrier


@contextlib.contextmanager
def continued(carrier: Mapping[str, str]) -> Iterator[None]:
    """Continue below the span that `position` has described, in another thread or process."""
    if not IS_INSTALLED:
        yield
        return
    token = context.attach(TraceContextTextMapPropagator().extract(carrier))
    try:
        yield
    finally:
        context.detach(token)
