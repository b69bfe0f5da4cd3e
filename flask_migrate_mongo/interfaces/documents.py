"""Reports as the JSON documents that `--json` prints."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from flask_migrate_mongo.dry_run import showing
from flask_migrate_mongo.model.errors import LockHeldError, MigrateError, wording

from .faults import fault_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from flask_migrate_mongo.lint import Finding, LintReport
    from flask_migrate_mongo.model.reports import Outcome, Prediction, RunReport, Sample, Trial
    from flask_migrate_mongo.model.values import (
        Entry,
        ErrorInfo,
        Event,
        LockState,
        Progress,
        Record,
        StatusReport,
        Survey,
    )
    from flask_migrate_mongo.planning.preview import Glance, Preview
    from flask_migrate_mongo.rehearsal import Attempt, MigrationRehearsal, RehearsalReport
    from flask_migrate_mongo.rehearsal.estimation import Estimate
    from flask_migrate_mongo.store.runs import StoredRun

Document = dict[str, Any]


def status(report: StatusReport) -> Document:
    """Return the status document."""
    survey = report.survey
    return {
        "applied": [_applied(entry) for entry in survey.applied],
        "pending": [_waiting(entry) for entry in survey.pending],
        "failed": [{**_waiting(e), "error": _recorded_error(e)} for e in survey.failed],
        "running": [_running(entry) for entry in survey.running],
        "locked": lock(report.lock) if report.lock and report.lock.is_live else None,
        "summary": _summary(survey),
        "ignored": list(report.ignored),
    }


def history(records: Iterable[Record]) -> Document:
    """Return a page of the history."""
    return {"history": [_record(record) for record in records]}


def events(trail: Iterable[Event]) -> Document:
    """Return a trail, oldest first."""
    return {"events": [_event(event) for event in trail]}


def lock(state: LockState | None) -> Document | None:
    """Return the lock, or None when nobody holds it."""
    if state is None:
        return None
    return {
        "lockedBy": state.holder,
        "host": state.host,
        "pid": state.pid,
        "runId": state.run_id,
        "reason": state.reason,
        "fence": state.fence,
        "lockedAt": moment(state.locked_at),
        "heartbeatAt": moment(state.heartbeat_at),
        "expiresAt": moment(state.expires_at),
        "expired": not state.is_live,
    }


def lock_status(state: LockState | None) -> Document:
    """Return whether the lock holds anyone off, and what is known of it."""
    return {"locked": state is not None and state.is_live, "lock": lock(state)}


def released(state: LockState | None) -> Document:
    """Return whose lock was released by force; null when it was free."""
    return {"released": lock(state)}


def run(report: RunReport) -> Document:
    """Return what a run did, or would have done."""
    return {
        "direction": report.direction.value,
        "executed": report.executed,
        "dryRun": report.dry_run,
        "runId": report.run_id,
        "batch": report.batch,
        "steps": [outcome(each) for each in report.outcomes],
        "warnings": list(report.warnings),
        "error": problem(report.error) if report.error else None,
    }


def outcome(outcome: Outcome) -> Document:
    """Return what became of one step; of a dry run, what would become of it."""
    file = outcome.step.file
    document = {
        "version": str(file.version),
        "name": file.name,
        "state": outcome.state.value,
        "executionTime": outcome.took_ms,
        "transactional": file.transactional,
        "reversible": file.reversible,
        "outOfOrder": outcome.step.out_of_order,
        "error": _error(outcome.error),
    }
    return document if outcome.trial is None else document | _trial(outcome.trial)


def _trial(trial: Trial) -> Document:
    return {
        "verdict": trial.verdict.value,
        "reason": trial.reason,
        "effects": {name: asdict(effects) for name, effects in trial.effects.items()},
        "predicted": [_prediction(each) for each in trial.predicted],
        "samples": [_sample(each) for each in trial.samples],
        "dependsOn": [str(version) for version in trial.depends_on],
    }


def _prediction(prediction: Prediction) -> Document:
    return {
        "operation": prediction.operation,
        "collection": prediction.collection,
        "expected": prediction.expected.value,
        "detail": prediction.detail,
        **showing.document(prediction.facts),
    }


def _sample(sample: Sample) -> Document:
    return {
        "collection": sample.collection,
        "id": showing.value(sample.document_id),
        "before": None if sample.before is None else showing.document(sample.before),
        "after": None if sample.after is None else showing.document(sample.after),
    }


def plan(found: Preview) -> Document:
    """Return what `up` would run, and what there is to know before."""
    survey, held = found.status.survey, found.status.lock
    return {
        "steps": [_glance(glance) for glance in found.glances],
        "drifted": [_base(entry) for entry in survey.drifted],
        "missing": [_base(entry) for entry in survey.missing],
        "ignored": list(found.status.ignored),
        "locked": lock(held) if held and held.is_live else None,
        "warnings": list(found.plan.warnings),
    }


def _glance(glance: Glance) -> Document:
    file = glance.step.file
    return {
        "version": str(file.version),
        "name": file.name,
        "transactional": file.transactional,
        "idempotent": file.idempotent,
        "reversible": file.reversible,
        "outOfOrder": glance.step.out_of_order,
        "interrupted": glance.step.interrupted,
        "collections": [
            {"collection": name, "documents": documents}
            for name, documents in glance.collections.items()
        ],
        "collectionsComplete": glance.complete,
        "findings": [_finding(finding) for finding in glance.findings],
    }


def rehearsal(report: RehearsalReport) -> Document:
    """Return what a rehearsal found out."""
    return {
        "database": report.database,
        "copied": [
            {"collection": copied.name, "documents": copied.documents, "of": copied.of}
            for copied in report.copied
        ],
        "migrations": [_rehearsed(each) for each in report.migrations],
        "removed": list(report.removed),
        "locked": lock(report.lock),
        "warnings": list(report.warnings),
    }


def _rehearsed(migration: MigrationRehearsal) -> Document:
    file = migration.file
    return {
        "version": str(file.version),
        "name": file.name,
        "transactional": file.transactional,
        "reversible": file.reversible,
        "failed": migration.failed,
        "up": _attempt(migration.up),
        "down": _attempt(migration.down),
        "again": _attempt(migration.again),
        "undoes": migration.undoes,
        "differences": [asdict(each) for each in migration.differences.first],
        "differencesTotal": migration.differences.total,
        "collections": list(migration.touched),
        "elsewhere": list(migration.elsewhere),
        "estimate": _estimate(migration.estimate),
    }


def _attempt(attempt: Attempt | None) -> Document | None:
    return {"executionTime": attempt.took_ms, "error": _error(attempt.error)} if attempt else None


def _estimate(estimate: Estimate | None) -> Document | None:
    if estimate is None:
        return None
    times = {
        "executionTime": estimate.seconds,
        "lowest": estimate.low,
        "highest": estimate.high,
    }
    milliseconds = {name: round(seconds * 1000) for name, seconds in times.items()}
    return {
        "documents": estimate.documents,
        **milliseconds,
        "extrapolated": estimate.extrapolated,
    }


def problem(error: Exception) -> Document:
    """Return the problem details (RFC 9457) of an error."""
    # What is not ours tells its secrets, and may fail to tell anything.
    error = error if isinstance(error, MigrateError) else MigrateError(wording(error))
    document = {
        "type": f"urn:flask-migrate-mongo:{error.code}",
        "title": (type(error).__doc__ or type(error).__name__).partition("\n")[0],
        "status": fault_of(error).http_status,
        "detail": str(error),
        "code": error.code,
    }
    return document | {"lock": lock(error.lock)} if isinstance(error, LockHeldError) else document


def failed_run(report: RunReport, error: Exception) -> Document:
    """Return a run that did not succeed: the problem details of why, and the run's document."""
    return problem(error) | run(report)


def created(path: Path) -> Document:
    """Return where a new file is."""
    return {"path": str(path)}


def lint(report: LintReport) -> Document:
    """Return what lint found."""
    return {
        "findings": [_finding(finding) for finding in report.findings],
        "summary": {
            "files": report.files,
            "findings": len(report.findings),
            "errors": report.count("error"),
            "warnings": report.count("warning"),
            "infos": report.count("info"),
            "allowed": len(report.allowed),
        },
    }


def health(survey: Survey) -> Document:
    """Return that everything is applied."""
    return {"ready": True, "summary": _summary(survey)}


def http_problem(status: int, title: str, detail: str) -> Document:
    """Return the problem details of an error that is the application's or the web framework's."""
    code = f"http-{status}"
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}


def stored_run(run: StoredRun) -> Document:
    """Return what is known of a run that nobody waited for."""
    return {
        "runId": run.run_id,
        "direction": run.direction,
        "state": run.state.value,
        "detached": run.detached,
        "cancelRequested": run.cancel_requested,
        "current": run.current,
        "createdAt": moment(run.created_at),
        "updatedAt": moment(run.updated_at),
        "report": run.report,
        "error": run.error,
    }


def progress(progress: Progress) -> Document:
    """Return how far a backfill is."""
    return {
        "collection": progress.collection,
        "done": progress.done,
        "total": progress.total,
        "perSecond": _rounded(progress.per_second),
        "secondsLeft": _rounded(progress.seconds_left),
    }


def asked(record: Record) -> Document:
    """Return which migration's backfill something was asked of."""
    return {"version": str(record.version), "name": record.name, "runId": record.run_id}


def run_event(event: Document) -> Document:
    """Return one thing that a run told."""
    return {key: _plain(value) for key, value in event.items()}


def moment(at: datetime | None) -> str | None:
    """Return a time in ISO 8601, UTC, to the millisecond."""
    if at is None:
        return None
    return at.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _finding(finding: Finding) -> Document:
    return {
        "code": finding.rule.code,
        "severity": finding.rule.severity.value,
        "path": finding.shown_path.as_posix(),
        "line": finding.line,
        "column": finding.column,
        "endLine": finding.end_line,
        "function": finding.function,
        "message": finding.message,
        "help": finding.help,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)


def _summary(survey: Survey) -> Document:
    return {
        "total": survey.total,
        "applied": len(survey.applied),
        "pending": len(survey.pending),
        "failed": len(survey.failed),
        "running": len(survey.running),
        "drifted": len(survey.drifted),
        "missing": len(survey.missing),
        "outOfOrder": len(survey.out_of_order),
    }


def _base(entry: Entry) -> Document:
    return {"version": str(entry.version), "name": entry.name, "reversible": entry.reversible}


def _applied(entry: Entry) -> Document:
    record = entry.record
    return _base(entry) | {
        "appliedAt": moment(record.applied_at) if record else None,
        "executionTime": record.execution_ms if record else None,
        "batch": (record.batch or None) if record else None,
        "drifted": entry.drifted,
        "missing": entry.missing,
    }


def _waiting(entry: Entry) -> Document:
    return _base(entry) | {
        "transactional": entry.file.transactional if entry.file else False,
        "outOfOrder": entry.out_of_order,
    }


def _running(entry: Entry) -> Document:
    direction = entry.record.direction.value if entry.record else None
    running = _base(entry) | {"direction": direction}
    if entry.record is None or entry.record.progress is None:
        return running
    return running | {"progress": progress(entry.record.progress)}


def _recorded_error(entry: Entry) -> Document | None:
    return _error(entry.record.error) if entry.record else None


def _error(error: ErrorInfo | None) -> Document | None:
    return asdict(error) if error else None


def _record(record: Record) -> Document:
    return {
        "version": str(record.version),
        "name": record.name,
        "description": record.description,
        "status": record.status.value,
        "appliedAt": moment(record.applied_at),
        "rolledBackAt": moment(record.rolled_back_at),
        "executionTime": record.execution_ms,
        "error": _error(record.error),
        "reversible": record.reversible,
        "batch": record.batch or None,
        "updatedAt": moment(record.updated_at),
    }


def _event(event: Event) -> Document:
    version = None if event.version is None else str(event.version)
    head = {"version": version, "event": event.kind, "at": moment(event.at)}
    details = {key: _plain(value) for key, value in event.details.items()}
    # First and last: the keys of the head come first, and no detail of that name replaces them.
    return head | details | head | {"error": _error(event.error)}


def _plain(value: object) -> object:
    return moment(value) if isinstance(value, datetime) else value
