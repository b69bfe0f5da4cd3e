"""What a dry run found out, as text."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple
from typing import TYPE_CHECKING

from flask_migrate_mongo.dry_run import showing
from flask_migrate_mongo.model.reports import Expected, Outcome, Verdict

from . import words
from .cells import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask_migrate_mongo.model.reports import Effects, Prediction, RunReport, Sample, Trial

    from .cells import Cell
    from .console import Console

    Row = Sequence[Cell]

_VERDICTS = {
    Verdict.SUCCEEDS: "green",
    Verdict.FAILS: "bold red",
    Verdict.NOT_REHEARSED: "yellow",
    Verdict.TOO_LARGE: "yellow",
}

_SHORT = {
    Verdict.SUCCEEDS: "would succeed",
    Verdict.FAILS: "would fail",
    Verdict.NOT_REHEARSED: "not rehearsed",
    Verdict.TOO_LARGE: "too large",
}

_EXPECTATIONS = {
    Expected.DONE: "",
    Expected.NO_OP: "dim",
    Expected.FAILS: "red",
    Expected.UNKNOWN: "yellow",
}

_EFFECTS = ("  Collection", "Inserted", "Matched", "Modified", "Deleted", "Upserted")


def dry_run(console: Console, report: RunReport) -> None:
    """Print what each step of a dry run would do."""
    for outcome in report.outcomes:
        if outcome.trial is not None:
            _trial(console, outcome, outcome.trial)
    words.say(console, _conclusion(report))


def _trial(console: Console, outcome: Outcome, trial: Trial) -> None:
    verdict = (
        trial.verdict.value
        if outcome.error is None
        else f"{trial.verdict.value}: {words.brief(outcome.error)}"
    )
    reason = f": {words.printable(trial.reason)}" if trial.reason else ""
    console.say(
        Text(f"{words.title(outcome.step)}: "),
        Text(verdict, _VERDICTS[trial.verdict]),
        Text(f"{reason}{_speed(outcome, trial)}"),
    )
    if outcome.error and outcome.error.traceback:
        words.say(console, _indented(outcome.error.traceback.rstrip()), "dim")
    for version in trial.depends_on:
        words.say(console, f"  builds on what is only predicted of {version}", "yellow")
    rows = [_effects_row(name, effects) for name, effects in trial.effects.items()]
    console.table(_EFFECTS, rows)
    for prediction in trial.predicted:
        words.say(console, f"  {_predicted(prediction)}", _EXPECTATIONS[prediction.expected])
    for sample in trial.samples:
        _sample(console, sample)


def _conclusion(report: RunReport) -> str:
    verdicts = Counter(o.trial.verdict for o in report.outcomes if o.trial is not None)
    counts = ", ".join(f"{verdicts[v]} {_SHORT[v]}" for v in Verdict if v in verdicts)
    return f"Dry run of {words.count(len(report.outcomes))}: {counts}. All of it was taken back: nothing was changed."


def _speed(outcome: Outcome, trial: Trial) -> str:
    if outcome.took_ms is None:
        return ""
    documents = sum(e.inserted + e.matched + e.deleted + e.upserted for e in trial.effects.values())
    rate = (
        f", {documents * words.SECOND / max(outcome.took_ms, 1):,.0f} documents/s"
        if documents
        else ""
    )
    return f" ({words.took(outcome.took_ms)}{rate})"


def _predicted(prediction: Prediction) -> str:
    where = words.printable(prediction.collection)
    return f"{prediction.operation} {where}: {words.printable_lines(prediction.detail)}"


def _sample(console: Console, sample: Sample) -> None:
    words.say(
        console,
        f"  {words.printable(sample.collection)} {words.printable(showing.text(sample.document_id))}",
    )
    for sign, fields, style in (("-", sample.before, "red"), ("+", sample.after, "green")):
        for path, value in (fields or {}).items():
            words.say(
                console, f"    {sign} {words.printable(f'{path}: {showing.text(value)}')}", style
            )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in words.printable_lines(text).split("\n"))


def _effects_row(name: str, effects: Effects) -> Row:
    figures = (f"{number:,}" if number else "-" for number in astuple(effects))
    return (f"  {words.printable(name)}", *figures)
