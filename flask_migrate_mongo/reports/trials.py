"""The findings of a dry run, as text."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import astuple
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.reports import Outcome, Verdict

from . import words
from .cells import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask_migrate_mongo.model.reports import Effects, NotExecuted, RunReport, Sample, Trial

    from .cells import Cell
    from .console import Console

    Row = Sequence[Cell]

_STYLES = {
    Verdict.SUCCEEDS: "green",
    Verdict.PARTLY: "yellow",
    Verdict.FAILS: "bold red",
    Verdict.TOO_LARGE: "yellow",
    Verdict.NOT_EXECUTED: "yellow",
}

_EFFECTS = ("  Collection", "Inserted", "Matched", "Modified", "Deleted", "Upserted")


def dry_run(console: Console, report: RunReport) -> None:
    """Print the findings of a dry run, step by step."""
    for outcome in report.outcomes:
        if outcome.trial is not None:
            _trial(console, outcome, outcome.trial)
    words.say(console, _conclusion(report))


def _trial(console: Console, outcome: Outcome, trial: Trial) -> None:
    cause = words.brief(outcome.error) if outcome.error else words.printable(trial.reason or "")
    console.say(
        Text(f"{words.title(outcome.step)}: "),
        Text(trial.verdict.value, _STYLES[trial.verdict]),
        Text(f"{': ' if cause else ''}{cause}{_speed(outcome, trial)}"),
    )
    if outcome.error and outcome.error.traceback:
        lines = words.printable_lines(outcome.error.traceback.rstrip()).split("\n")
        words.say(console, "\n".join(f"  {line}" for line in lines), "dim")
    rows = [_effects_row(name, effects) for name, effects in trial.effects.items()]
    console.table(_EFFECTS, rows)
    for operation in trial.not_executed:
        words.say(console, f"  {_not_executed(operation)}", "red" if operation.violations else "")
    for sample in trial.samples:
        _sample(console, sample)


def _conclusion(report: RunReport) -> str:
    verdicts = Counter(o.trial.verdict for o in report.outcomes if o.trial is not None)
    short = {verdict: verdict.value.partition(":")[0] for verdict in Verdict}
    counts = ", ".join(f"{verdicts[v]} {short[v]}" for v in Verdict if v in verdicts)
    nothing = " No migration could be executed." if report.executed_nothing else ""
    count = words.count(len(report.outcomes))
    return (
        f"Dry run of {count}: {counts}.{nothing} Everything was rolled back: nothing was changed."
    )


def _speed(outcome: Outcome, trial: Trial) -> str:
    if outcome.took_ms is None:
        return ""
    documents = sum(e.inserted + e.matched + e.deleted + e.upserted for e in trial.effects.values())
    rate = documents * words.SECOND / max(outcome.took_ms, 1)
    speed = f", {rate:,.0f} documents/s" if documents else ""
    return f" ({words.took(outcome.took_ms)}{speed})"


def _not_executed(operation: NotExecuted) -> str:
    documents = operation.documents
    counted = "" if documents is None else f"about {documents:,} documents"
    facts = "; ".join(fact for fact in (counted, operation.detail) if fact)
    what = f"not executed: {operation.operation} {operation.collection}"
    return words.printable(f"{what}: {facts}" if facts else what)


def _sample(console: Console, sample: Sample) -> None:
    title = f"{sample.collection} {_json(sample.document_id)}"
    words.say(console, f"  {words.printable(title)}")
    for sign, fields, style in (("-", sample.before, "red"), ("+", sample.after, "green")):
        for path, value in (fields or {}).items():
            words.say(console, f"    {sign} {words.printable(f'{path}: {_json(value)}')}", style)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _effects_row(name: str, effects: Effects) -> Row:
    figures = (f"{number:,}" if number else "-" for number in astuple(effects))
    return (f"  {words.printable(name)}", *figures)
