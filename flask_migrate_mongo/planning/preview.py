"""A preview of `up` that runs nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_migrate_mongo.driver.server import translated
from flask_migrate_mongo.files.parsing import read_content
from flask_migrate_mongo.lint.linter import named_collections
from flask_migrate_mongo.model.values import Direction

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flask_migrate_mongo.driver.server import Server
    from flask_migrate_mongo.lint.linter import Finding, Linter
    from flask_migrate_mongo.model.values import Plan, StatusReport, Step

    from .plans import Inspector


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What is known of a step without running it.

    `collections` are those that up() names, with how many documents are in each: None for one that does not exist
    yet. Without `complete` there may be others, whose names are worked out while it runs.
    """

    step: Step
    collections: Mapping[str, int | None]
    complete: bool
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """What would run, and what there is besides: drift, missing files, the lock."""

    plan: Plan
    planned: tuple[PlannedStep, ...]
    status: StatusReport


def preview(inspector: Inspector, linter: Linter) -> Preview:
    """Preview `up`: without the lock, writes or a migration's code.

    Raises the errors that refuse the plan.
    """
    plan, status = inspector.plan()
    findings: dict[Path, list[Finding]] = defaultdict(list)
    for finding in linter.lint(step.file.path for step in plan.steps).findings:
        findings[finding.path].append(finding)
    named = [named_collections(read_content(s.file.path), Direction.UP) for s in plan.steps]
    sizes = _sizes(inspector.server, frozenset[str]().union(*(each.names for each in named)))
    planned = tuple(
        PlannedStep(
            step,
            {name: sizes[name] for name in sorted(found.names)},
            found.complete,
            tuple(findings[step.file.path]),
        )
        for step, found in zip(plan.steps, named, strict=True)
    )
    return Preview(plan, planned, status)


def _sizes(server: Server, names: frozenset[str]) -> dict[str, int | None]:
    """Read how many documents the collections have, as the server estimates it."""
    with translated():
        there = set(server.database.list_collection_names()) if names else set()
    return {name: server.estimated_count(name) if name in there else None for name in names}
