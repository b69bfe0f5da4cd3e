"""A preview of `up` or `down` that runs nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flask_migrate_mongo.driver.server import translated
from flask_migrate_mongo.files.parsing import read_content
from flask_migrate_mongo.lint.linter import Finding, Linter, named_collections
from flask_migrate_mongo.model.documents import Report
from flask_migrate_mongo.model.values import Plan, StatusReport, Step

from .plans import EVERYTHING_PENDING, Inspector, Target

MANY = 100_000
"""From how many documents of a collection on a transaction that changes it may be too large or too long."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What is known of a step without running it.

    `collections` are those that its function names, with how many documents are in each: None for one that does not exist
    yet. Without `complete` there may be others, whose names are worked out while it runs.
    """

    step: Step
    collections: Mapping[str, int | None]
    complete: bool
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview(Report):
    """What would run on which database, and what there is besides: drift, missing files, the lock."""

    _document = "plan"

    plan: Plan
    planned: tuple[PlannedStep, ...]
    status: StatusReport

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that would run, in this order."""
        return self.plan.steps


def preview(inspector: Inspector, linter: Linter, target: Target = EVERYTHING_PENDING) -> Preview:
    """Preview a run without the lock, writes or a migration's code. Raises what refuses the plan."""
    plan, status = inspector.plan(target)
    findings: dict[Path, list[Finding]] = defaultdict(list)
    for finding in linter.lint(step.file.path for step in plan.steps).findings:
        findings[finding.path].append(finding)
    named = [named_collections(read_content(s.file.path), s.direction) for s in plan.steps]
    names = {name for found in named for name in found.names}
    server = inspector.server
    with translated():
        there = set(server.database.list_collection_names()) if names else set()
    sizes = {name: server.estimated_count(name) if name in there else None for name in names}
    planned = tuple(
        PlannedStep(
            step,
            {name: sizes[name] for name in sorted(found.names)},
            found.complete,
            tuple(findings[step.file.path]),
        )
        for step, found in zip(plan.steps, named, strict=True)
    )
    large = tuple(filter(None, map(_too_large, planned)))
    warned = replace(plan, warnings=(*plan.warnings, *large))
    return Preview(warned, planned, status, database=status.database)


def _too_large(planned: PlannedStep) -> str | None:
    """Warn of a transaction over large collections; None if there are none."""
    sizes = planned.collections.items()
    large = ", ".join(f"{name} ({size:,})" for name, size in sizes if size and size > MANY)
    if not large or not planned.step.file.transactional or planned.step.adopts:
        return None
    return (
        f"{planned.step.version} uses collections of more than {MANY:,} documents in one transaction: {large}. "
        "The server ends a transaction that is too long or too large. If it changes many of them, use "
        "ctx.backfill() in a migration without `transactional = True`."
    )
