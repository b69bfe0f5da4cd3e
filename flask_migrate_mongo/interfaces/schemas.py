"""Every JSON document, for `--json`, the REST API and OpenAPI alike: `document(name, value)` dumps a value.

A field has the name of the value's attribute, unless it says another one; JSON spells it in camelCase. Importing
this module costs 45 ms, so text output does not import it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from functools import partial
from types import NoneType
from typing import Any, get_args, get_type_hints

from bson import json_util
from marshmallow import INCLUDE, RAISE, Schema, fields, missing, post_dump, pre_dump, validate

from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.lint.rules import Severity
from flask_migrate_mongo.model.documents import DeploymentKind
from flask_migrate_mongo.model.errors import MigrateError, as_migrate_error
from flask_migrate_mongo.model.reports import StepState, Verdict
from flask_migrate_mongo.model.values import (
    COLUMNS,
    Direction,
    ErrorInfo,
    Event,
    RangeState,
    Record,
    Tool,
)
from flask_migrate_mongo.model.wording import Wording, camel_case, cli
from flask_migrate_mongo.planning.diagnosis import Grade
from flask_migrate_mongo.planning.gate import Kind
from flask_migrate_mongo.planning.importing import ImportState
from flask_migrate_mongo.schema.comparison import DifferenceKind, Way
from flask_migrate_mongo.schema.inventory import Agreement
from flask_migrate_mongo.schema.meanings import RELAXED_JSON, sentence
from flask_migrate_mongo.schema.report import fingerprint
from flask_migrate_mongo.store.runs import RunState

VERSION = r"[0-9]{1,30}"

_words: ContextVar[Wording] = ContextVar("wording", default=cli)
"""The wording of errors; each call of `document` sets it."""


def document(name: str, value: object, wording: Wording = cli) -> Document:
    """Dump a value as the document of this name, one of DOCUMENTS; errors in it use the given wording."""
    _words.set(wording)
    dumped: Document = DOCUMENTS[name]().dump(value)
    return dumped


def moment(at: datetime) -> str:
    """Write a time in ISO 8601, UTC, to the millisecond."""
    return at.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- fields


class _Moment(fields.String):
    def _serialize(self, value: object, *_: object, **__: object) -> str | None:
        return moment(value) if isinstance(value, datetime) else None


class _Count(fields.Integer):
    """A number, or how many values there are."""

    def _serialize(self, value: object, *_: object, **__: object) -> str | int | None:
        found = len(value) if isinstance(value, tuple) else value
        return super()._serialize(found, None, None)


class _Present(fields.Nested):
    """A document that is left out where there is none."""

    def get_value(self, *given: Any, **more: Any) -> Any:  # noqa: ANN401  (marshmallow's)
        found = super().get_value(*given, **more)
        return missing if found is None else found


class _Dumped(fields.Nested):
    """A document that was dumped before it was stored."""

    def _serialize(self, *given: object, **_: object) -> object:
        return given[0]


_text = partial(fields.String, required=True)
_flag = partial(fields.Boolean, required=True)
_count = partial(_Count, required=True, validate=validate.Range(0))
_moment = partial(_Moment, required=True, allow_none=True, metadata={"format": "date-time"})
_version = partial(_text, validate=validate.Regexp(f"^{VERSION}$"))
_one_of = partial(fields.Enum, by_value=fields.String, required=True)
_texts = partial(fields.List, fields.String, required=True)
_maybe = partial(fields.Nested, required=True, allow_none=True)


def _list(schema: type[Schema], attribute: str | None = None) -> fields.List[Any]:
    return fields.List(fields.Nested(schema), required=True, attribute=attribute)


class ClosedSchema(Schema):
    """A document, or parameters, with keys in camelCase and no others."""

    class Meta:
        unknown = RAISE

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Spell the key in camelCase, unless the field names another one."""
        field_obj.data_key = field_obj.data_key or camel_case(field_name)


class _Wrapper(ClosedSchema):
    """A document around one value, which its field shows."""

    def get_attribute(self, obj: object, attr: str, default: object) -> object:  # noqa: ARG002
        """Take the value itself."""
        return obj


DatabaseDocument = ClosedSchema.from_dict(
    {
        "name": _text(),
        "hosts": _texts(),
        "kind": _one_of(DeploymentKind, allow_none=True),
        "replica_set": _text(allow_none=True),
    },
    name="DatabaseDocument",
)
"""The database that a document is about."""


class _Located(ClosedSchema):
    """A document about what a database holds."""

    database = _maybe(DatabaseDocument)


class _OpenDocument(ClosedSchema):
    """A document that may have more fields."""

    class Meta:
        unknown = INCLUDE


class _EventOf(_OpenDocument):
    """An event with all its details."""

    @post_dump(pass_original=True)
    def add_details(self, dumped: Document, event: Event | Document, **_: object) -> Document:
        """Add the details; declared fields are never replaced."""
        details = event if isinstance(event, dict) else event.details
        more = {k: moment(v) if isinstance(v, datetime) else v for k, v in details.items()}
        return {**dumped, **more, **dumped}


def _document(
    name: str, base: type[Schema] = ClosedSchema, /, **shown: fields.Field[Any]
) -> type[Schema]:
    """Make a document of fields alone; those of the base come first."""
    return base.from_dict(shown, name=f"{name}Document")


def _each(make: Callable[[], fields.Field[Any]], *names: str) -> dict[str, fields.Field[Any]]:
    return {name: make() for name in names}


# --- parts of documents

ErrorInfoDocument = _document(
    "ErrorInfo", type=_text(), message=_text(), traceback=_text(allow_none=True)
)

_BY_TYPE: Mapping[object, Callable[..., fields.Field[Any]]] = {
    bool: _flag,
    datetime: _moment,
    ErrorInfo: partial(_maybe, ErrorInfoDocument),
    int: _count,
    str: _text,
}


def _column(name: str, **how: Any) -> fields.Field[Any]:  # noqa: ANN401  (any argument of a field)
    """Make the field of a record's column, by its type."""
    hint = get_type_hints(Record)[name]
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    make = _BY_TYPE.get(kinds[0]) or partial(_one_of, kinds[0])
    return make(**{"data_key": COLUMNS[name].shown, "allow_none": kinds != [hint], **how})


_COLUMNS = {name: _column(name) for name, column in COLUMNS.items() if column.shown}
RecordDocument = _document("Record", **{**_COLUMNS, "version": _version()})
"""A version in the history: the columns of its record that are shown."""

LockDocument = _document(
    "Lock",
    locked_by=_text(attribute="holder"),
    host=_text(),
    pid=fields.Integer(required=True),
    run_id=_text(),
    reason=_text(),
    fence=fields.Integer(required=True),
    **_each(_moment, "locked_at", "heartbeat_at", "expires_at"),
    expired=_flag(),
)

EntryDocument = _document("Entry", version=_version(), name=_text(), reversible=_flag())
_IN_STATUS = {
    name: _column(name, attribute=f"record.{name}", allow_none=True, dump_default=None)
    for name, column in COLUMNS.items()
    if column.in_status
}
AppliedDocument = _document(
    "Applied", EntryDocument, **_IN_STATUS, drifted=_flag(), missing=_flag()
)
"""An applied version in the status, with the columns of its record that are shown there."""

PendingDocument = _document(
    "Pending",
    EntryDocument,
    transactional=_flag(attribute="file.transactional", dump_default=False),
    out_of_order=_flag(),
)
FailedDocument = _document(
    "Failed",
    PendingDocument,
    interrupted=_flag(attribute="record.interrupted", dump_default=False),
    error=_maybe(ErrorInfoDocument, attribute="record.error", dump_default=None),
)


RangeProgressDocument = _document("RangeProgress", done=_count(), state=_one_of(RangeState))


class ProgressDocument(ClosedSchema):
    collection = _text()
    done = _count()
    total = _count(allow_none=True)
    per_second = fields.Float(required=True, allow_none=True)
    seconds_left = fields.Float(required=True, allow_none=True)
    least_seconds_left = fields.Float(required=True, allow_none=True)
    most_seconds_left = fields.Float(required=True, allow_none=True)
    paused = _flag()
    rates = fields.List(fields.Float(), required=True)
    ranges = _list(RangeProgressDocument)

    def get_attribute(self, obj: object, attr: str, default: object) -> object:
        """Round the estimates."""
        found = super().get_attribute(obj, attr, default)
        return round(found, 1) if isinstance(found, float) else found


RunningDocument = _document(
    "Running",
    EntryDocument,
    direction=_one_of(Direction, attribute="record.direction", allow_none=True, dump_default=None),
    progress=_Present(ProgressDocument, attribute="record.progress", allow_none=True),
)
SummaryDocument = _document(
    "Summary",
    **_each(_count, "total", "applied", "pending", "failed", "running"),
    **_each(_count, "drifted", "missing", "out_of_order"),
)
EventDocument = _document(
    "Event",
    _EventOf,
    version=_text(allow_none=True),
    event=_text(attribute="kind"),
    at=_moment(),
    error=_maybe(ErrorInfoDocument),
)


# --- steps

EffectsDocument = _document(
    "Effects", **_each(_count, "inserted", "matched", "modified", "deleted", "upserted")
)
ViolationDocument = _document("Violation", key=fields.Dict(required=True), count=_count())
NotExecutedDocument = _document(
    "NotExecuted",
    operation=_text(),
    collection=_text(),
    documents=_count(allow_none=True),
    detail=_text(),
    violations=_Present(ViolationDocument, many=True),
)
SampleDocument = _document(
    "Sample",
    collection=_text(),
    id=fields.Raw(attribute="document_id", required=True, allow_none=True),
    before=fields.Dict(required=True, allow_none=True),
    after=fields.Dict(required=True, allow_none=True),
)
_StepOf = _document(
    "StepOf",
    version=_version(attribute="step.file.version"),
    name=_text(attribute="step.file.name"),
    transactional=_flag(attribute="step.file.transactional"),
    reversible=_flag(attribute="step.file.reversible"),
    out_of_order=_flag(attribute="step.out_of_order"),
)
StepDocument = _document(
    "Step",
    _StepOf,
    state=_one_of(StepState),
    execution_time=_count(attribute="took_ms", allow_none=True),
    error=_maybe(ErrorInfoDocument),
    # Only a dry run's step has a trial, and with it these.
    verdict=fields.Enum(Verdict, by_value=fields.String, attribute="trial.verdict"),
    reason=fields.String(attribute="trial.reason", allow_none=True),
    effects=fields.Dict(fields.String(), fields.Nested(EffectsDocument), attribute="trial.effects"),
    not_executed=fields.List(fields.Nested(NotExecutedDocument), attribute="trial.not_executed"),
    samples=fields.List(fields.Nested(SampleDocument), attribute="trial.samples"),
)
FindingDocument = _document(
    "Finding",
    code=_text(attribute="rule.code"),
    severity=_one_of(Severity, attribute="rule.severity"),
    path=fields.Function(lambda finding: finding.shown_path.as_posix()),
    **_each(_count, "line", "column", "end_line"),
    function=_text(allow_none=True),
    **_each(_text, "message", "help"),
)
SuppressedFindingDocument = _document(
    "SuppressedFinding", FindingDocument, reason=_text(attribute="suppressed")
)
PlannedStepDocument = _document(
    "PlannedStep",
    _StepOf,
    idempotent=_flag(attribute="step.file.idempotent"),
    interrupted=_flag(attribute="step.interrupted"),
    recorded_only=fields.Function(lambda planned: bool(planned.step.adopts)),
    collections=fields.Function(
        lambda planned: [
            {"collection": name, "documents": size} for name, size in planned.collections.items()
        ]
    ),
    collections_complete=_flag(attribute="complete"),
    findings=_list(FindingDocument),
)

# --- rehearsals

CopiedDocument = _document(
    "Copied", collection=_text(attribute="name"), documents=_count(), of=_count()
)
AttemptDocument = _document(
    "Attempt", execution_time=_count(attribute="took_ms"), error=_maybe(ErrorInfoDocument)
)
DifferenceDocument = _document(
    "Difference", **_each(_text, "collection", "what", "before", "after")
)
EstimateDocument = _document(
    "Estimate",
    documents=_count(),
    execution_time=fields.Function(lambda estimate: round(estimate.seconds * 1000)),
    lowest=fields.Function(lambda estimate: round(estimate.low * 1000)),
    highest=fields.Function(lambda estimate: round(estimate.high * 1000)),
    extrapolated=_flag(),
)
RehearsedDocument = _document(
    "Rehearsed",
    version=_version(attribute="file.version"),
    name=_text(attribute="file.name"),
    transactional=_flag(attribute="file.transactional"),
    reversible=_flag(attribute="file.reversible"),
    digest=_text(attribute="file.digest", allow_none=True),
    failed=_flag(),
    **_each(partial(_maybe, AttemptDocument), "up", "down", "again"),
    undoes=_flag(allow_none=True),
    differences=_list(DifferenceDocument, "differences.first"),
    differences_total=_count(attribute="differences.total"),
    collections=_texts(attribute="touched"),
    elsewhere=_texts(),
    estimate=_maybe(EstimateDocument),
)
KeptRehearsalDocument = _document("KeptRehearsal", RehearsedDocument, rehearsed_at=_moment())


# --- documents


class ProblemDocument(_OpenDocument):
    """Why a request was not done (RFC 9457); for a failed run, the fields of its document come with it."""

    type = _text(attribute="type_uri")
    title = _text()
    status = fields.Integer(required=True, attribute="http_status")
    detail = fields.String(required=True)
    code = _text()
    lock = fields.Nested(LockDocument, allow_none=True)

    @pre_dump
    def adopt(self, error: Exception, **_: object) -> MigrateError:
        """Make an error of another origin one of ours, so that its text shows no secrets."""
        return as_migrate_error(error)

    def get_attribute(self, obj: MigrateError, attr: str, default: object) -> object:
        """Word the detail for the interface that asked."""
        return obj.explain(_words.get()) if attr == "detail" else getattr(obj, attr, default)


StatusDocument = _document(
    "Status",
    _Located,
    applied=_list(AppliedDocument, "survey.applied"),
    pending=_list(PendingDocument, "survey.pending"),
    failed=_list(FailedDocument, "survey.failed"),
    running=_list(RunningDocument, "survey.running"),
    locked=_maybe(LockDocument),
    summary=fields.Nested(SummaryDocument, required=True, attribute="survey"),
    ignored=_texts(),
    problems=_list(ProblemDocument),
)
PlanDocument = _document(
    "Plan",
    _Located,
    direction=_one_of(Direction, attribute="plan.direction"),
    steps=_list(PlannedStepDocument, "planned"),
    drifted=_list(EntryDocument, "status.survey.drifted"),
    missing=_list(EntryDocument, "status.survey.missing"),
    ignored=_texts(attribute="status.ignored"),
    locked=_maybe(LockDocument, attribute="status.locked"),
    warnings=_texts(attribute="plan.warnings"),
)
RunDocument = _document(
    "Run",
    _Located,
    direction=_one_of(Direction),
    executed=_flag(),
    dry_run=_flag(),
    run_id=_text(allow_none=True),
    batch=_count(allow_none=True),
    execution_time=_count(attribute="took_ms", allow_none=True),
    steps=_list(StepDocument, "outcomes"),
    warnings=_texts(),
    error=_maybe(ProblemDocument),
)
RehearsalDocument = _document(
    "Rehearsal",
    _Located,
    scratch_database=_text(allow_none=True),
    rehearsed_at=_moment(attribute="at"),
    copied=_list(CopiedDocument),
    migrations=_list(RehearsedDocument),
    removed=_texts(),
    locked=_maybe(LockDocument, attribute="lock"),
    warnings=_texts(),
)
HistoryDocument = _document("History", _Located, history=_list(RecordDocument, "records"))
EventsDocument = _document("Events", _Located, events=_list(EventDocument))
CreatedDocument = _document("Created", _Wrapper, path=_text())
GeneratedDocument = _document("Generated", paths=_texts(), questions=_count())
"""The migrations that were written from the declared schema."""

ReleasedDocument = _document("Released", _Located, released=_maybe(LockDocument))
RequestedDocument = _document(
    "Requested",
    _Located,
    version=_version(attribute="record.version"),
    name=_text(attribute="record.name"),
    run_id=_text(attribute="record.run_id"),
)
"""The migration whose backfill received a request."""

LintSummaryDocument = _document(
    "LintSummary",
    files=_count(),
    findings=_count(),
    errors=fields.Function(lambda report: report.count("error")),
    warnings=fields.Function(lambda report: report.count("warning")),
    infos=fields.Function(lambda report: report.count("info")),
    allowed=_count(attribute="suppressed"),
)
LintDocument = _document(
    "Lint",
    findings=_list(FindingDocument),
    summary=fields.Function(LintSummaryDocument().dump),
)


LockStatusDocument = _document("LockStatus", _Located, locked=_flag(), lock=_maybe(LockDocument))
"""The lock, and whether it excludes other runs."""


HealthDocument = _document("Health", ready=_flag(), summary=fields.Nested(SummaryDocument))
"""Whether everything is applied; the figures are only for callers who may read."""

CurrentDocument = _document(
    "Current",
    version=_version(),
    name=_text(),
    progress=fields.Nested(ProgressDocument, allow_none=True),
)
_STEP_STATES = ("waiting", "running", *(state.value for state in StepState))
RunStepDocument = _document(
    "RunStep",
    version=_version(attribute="file.version"),
    name=_text(attribute="file.name"),
    state=_text(validate=validate.OneOf(_STEP_STATES), dump_default="waiting"),
    execution_time=_count(allow_none=True, dump_default=None),
)
ListedRunDocument = _document(
    "ListedRun",
    run_id=_text(),
    direction=_text(validate=validate.OneOf([direction.value for direction in Direction])),
    dry_run=_flag(attribute="is_dry"),
    state=_one_of(RunState),
    detached=_flag(),
    cancel_requested=_flag(),
    current=_Dumped(CurrentDocument, required=True, allow_none=True),
    created_at=_moment(),
    updated_at=_moment(),
)
StoredRunDocument = _document(
    "StoredRun",
    ListedRunDocument,
    steps=fields.List(_Dumped(RunStepDocument), required=True),
    report=_Dumped(RunDocument, required=True, allow_none=True),
    error=_Dumped(ProblemDocument, required=True, allow_none=True),
)
"""An asynchronous run."""
RunsDocument = _document("Runs", _Wrapper, runs=_list(ListedRunDocument))
RunEventDocument = _document("RunEvent", _EventOf, sequence=_count(), event=_text(), at=_moment())
"""An event of an asynchronous run."""

CheckProblemDocument = _document(
    "CheckProblem",
    kind=_one_of(Kind),
    message=_text(),
    remedy=_text(attribute="advice"),
)
CheckDocument = _document(
    "Check",
    _Located,
    problems=_list(CheckProblemDocument),
    allowed=_list(CheckProblemDocument),
    ignored=_texts(),
)
BaselinedDocument = _document(
    "Baselined",
    version=_version(),
    name=_text(),
    verified=fields.Function(lambda file: file.verifiable or None),
)
BaselineDocument = _document(
    "Baseline", _Located, recorded=_list(BaselinedDocument), dry_run=_flag()
)
RenumberedDocument = _document(
    "Renumbered",
    _Located,
    version=_version(),
    path=_text(),
    record_from=_version(allow_none=True),
)
SquashedDocument = _document(
    "Squashed",
    path=_text(attribute="file.path"),
    version=_version(attribute="file.version"),
    replaces=fields.List(_version(), required=True, attribute="file.replaces"),
    joined=fields.Function(lambda squashed: [str(file.version) for file in squashed.joined]),
    transactional=_flag(attribute="file.transactional"),
    idempotent=_flag(attribute="file.idempotent"),
    reversible=_flag(attribute="file.reversible"),
    notes=_texts(),
)
"""A squashed migration that was written."""

MappedDocument = _document(
    "Mapped",
    name=_text(attribute="entry.name"),
    applied_at=_moment(attribute="entry.applied_at"),
    state=_one_of(ImportState),
    version=_version(attribute="file.version", allow_none=True, dump_default=None),
    file_name=_text(attribute="file.file_name", allow_none=True, dump_default=None),
    note=_text(),
)
ImportDocument = _document(
    "Import",
    _Located,
    tool=_one_of(Tool),
    collection=_text(),
    entries=_list(MappedDocument),
    unused=_texts(),
)

# --- the declared schema


class _BsonValue(fields.Field[Any]):
    """A value of BSON, as relaxed Extended JSON."""

    def _serialize(self, value: object, *_: object, **__: object) -> object:
        return json.loads(json_util.dumps(value, json_options=RELAXED_JSON))


ChangeDocument = _document(
    "Change",
    option=_text(),
    declared=_BsonValue(required=True, allow_none=True),
    live=_BsonValue(required=True, allow_none=True),
    way=_one_of(Way),
)
SchemaDifferenceDocument = _document(
    "SchemaDifference",
    kind=_one_of(DifferenceKind),
    collection=_text(),
    index=_text(attribute="index_name", allow_none=True),
    live_index=_text(attribute="live_name", allow_none=True),
    changes=_list(ChangeDocument),
    size=_count(attribute="use.size", allow_none=True),
    accesses=_count(attribute="use.accesses", allow_none=True),
    since=_moment(attribute="use.since"),
    message=fields.Function(sentence),
    fingerprint=fields.Function(fingerprint),
)
_of_both: dict[str, fields.Field[Any]] = {
    "name": _text(),
    "agreement": _one_of(Agreement),
    "declared": _BsonValue(required=True, allow_none=True),
    "live": _BsonValue(required=True, allow_none=True),
}
InventoryIndexDocument = _document(
    "InventoryIndex",
    **_of_both,
    why=_text(),
    size=_count(attribute="use.size", allow_none=True),
    accesses=_count(attribute="use.accesses", allow_none=True),
    since=_moment(attribute="use.since"),
    scanned=_count(attribute="build.done", allow_none=True, dump_default=None),
    to_scan=_count(attribute="build.total", allow_none=True, dump_default=None),
)
InventorySearchIndexDocument = _document(
    "InventorySearchIndex",
    **_of_both,
    kind=_text(allow_none=True),
    why=_text(),
    status=_text(allow_none=True),
    queryable=_flag(allow_none=True),
)
InventoryCollectionDocument = _document(
    "InventoryCollection",
    **_of_both,
    kind=_text(),
    indexes=_list(InventoryIndexDocument),
    search_indexes=_list(InventorySearchIndexDocument),
)
SchemaDiffDocument = _document(
    "SchemaDiff",
    _Located,
    differences=_list(SchemaDifferenceDocument),
    notes=_list(SchemaDifferenceDocument),
    known=_list(SchemaDifferenceDocument),
    collections=_count(attribute="diff.collections"),
    indexes=_count(attribute="diff.indexes"),
    inventory=_Present(InventoryCollectionDocument, many=True),
)

# --- one version, and the set-up

_of_file = {
    name: make(attribute=f"file.{name}", allow_none=True, dump_default=None)
    for make, names in (
        (_text, ("name", "description", "digest", "checksum")),
        (_flag, ("transactional", "idempotent", "reversible")),
        (_texts, ("replaces",)),
    )
    for name in names
}
FileDetailsDocument = _document(
    "FileDetails",
    path=_text(),
    **_of_file,
    verify=_flag(attribute="file.verifiable", allow_none=True, dump_default=None),
    problem=_maybe(ProblemDocument),
    source=_text(allow_none=True),
)
RecordDetailsDocument = _document(
    "RecordDetails",
    RecordDocument,
    **_each(partial(_text, allow_none=True), "slug", "digest", "checksum", "holder", "app_version"),
    interrupted=_flag(),
    replaced_by=_text(allow_none=True),
)
RejectedDocumentDocument = _document(
    "RejectedDocument",
    collection=_text(),
    id=_BsonValue(attribute="document_id", required=True, allow_none=True),
    error=_maybe(ErrorInfoDocument),
)
"""A document that a backfill skipped."""

VersionDetailsDocument = _document(
    "VersionDetails",
    _Located,
    version=_version(),
    **_each(_text, "name", "state"),
    changed=_flag(),
    files=_list(FileDetailsDocument),
    record=_maybe(RecordDetailsDocument),
    problems=_list(ProblemDocument),
    findings=_list(FindingDocument, "lint.findings"),
    suppressed=_list(SuppressedFindingDocument, "lint.suppressed"),
    progress=_maybe(ProgressDocument, attribute="record.progress", dump_default=None),
    rejected=_list(RejectedDocumentDocument),
    events=_list(EventDocument),
    rehearsal=_Dumped(KeptRehearsalDocument, required=True, allow_none=True),
    rehearsed_otherwise=_flag(attribute="is_rehearsed_otherwise"),
)
DiagnosisDocument = _document(
    "Diagnosis", grade=_one_of(Grade), message=_text(), remedy=_text(attribute="advice")
)
DoctorDocument = _document(
    "Doctor",
    _Located,
    problems=_count(),
    checks=fields.Dict(fields.String(), fields.Nested(DiagnosisDocument), required=True),
    settings=_list(_document("SettingValue", **_each(_text, "name", "value", "source"))),
)

DOCUMENTS: Mapping[str, type[Schema]] = {
    "baseline": BaselineDocument,
    "check": CheckDocument,
    "create": CreatedDocument,
    "create-from-schema": GeneratedDocument,
    "doctor": DoctorDocument,
    "error": ProblemDocument,
    "events": EventsDocument,
    "health": HealthDocument,
    "import-history": ImportDocument,
    "lint": LintDocument,
    "lock-status": LockStatusDocument,
    "openapi": _document("OpenApi", _OpenDocument, openapi=_text()),
    "plan": PlanDocument,
    "progress": ProgressDocument,
    "rehearse": RehearsalDocument,
    "renumber": RenumberedDocument,
    "run-event": RunEventDocument,
    "run-step": RunStepDocument,
    "runs": RunsDocument,
    "show": VersionDetailsDocument,
    "squash": SquashedDocument,
    "status": StatusDocument,
    "step": StepDocument,
    **dict.fromkeys(("up", "down", "redo"), RunDocument),
    **dict.fromkeys(
        ("run", "run-cancel", "run-events", "run-pause", "run-resume"), StoredRunDocument
    ),
    **dict.fromkeys(("pause", "resume", "cancel"), RequestedDocument),
    **dict.fromkeys(("history", "resolve"), HistoryDocument),
    **dict.fromkeys(("force-unlock", "lock-release"), ReleasedDocument),
    **dict.fromkeys(("schema", "schema-diff"), SchemaDiffDocument),
}
"""The schema of each document, by the command that prints it or the action that answers it, or by its own name."""
