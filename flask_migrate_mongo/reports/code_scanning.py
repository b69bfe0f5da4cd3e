"""Lint findings for other programs: GitHub's workflow commands, and SARIF."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

from flask_migrate_mongo.lint.rules import RULES, Rule, Severity

if TYPE_CHECKING:
    from flask_migrate_mongo.lint.linter import Finding, LintReport

Json: TypeAlias = "Mapping[str, object]"

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


# --- GitHub


def github(report: LintReport) -> Iterator[str]:
    """Write one workflow command for each finding."""
    for finding in report.findings:
        where = {
            "file": finding.shown_path.as_posix(),
            "line": str(finding.line),
            "endLine": str(finding.end_line),
            "col": str(finding.column),
            "title": f"{finding.rule.code} {finding.rule.title}",
        }
        properties = ",".join(f"{name}={_property(value)}" for name, value in where.items())
        message = _escaped(f"{finding.message}\n{finding.help}")
        yield f"::{_COMMANDS[finding.rule.severity]} {properties}::{message}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


# --- SARIF


def sarif(report: LintReport) -> Json:
    """Write a SARIF 2.1.0 log of one run. It contains suppressed findings as suppressed results."""
    driver = {
        "name": "flask db-migrate lint",
        "version": version("flask-migrate-mongo"),
        "rules": [_rule(rule) for rule in RULES],
    }
    findings = (*report.findings, *report.suppressed)
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": list(_results(sorted(findings, key=lambda f: (f.path, f.line, f.column)))),
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> Json:
    return {
        "id": rule.code,
        "shortDescription": {"text": rule.title},
        "help": {
            "text": rule.help(),
            "markdown": f"{rule.advice}\n\n```python\n{rule.example_for()}\n```",
        },
        # A URI must be absolute. This one names the page in the documentation.
        "helpUri": f"urn:flask-migrate-mongo:{rule.page}",
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _results(findings: list[Finding]) -> Iterator[Json]:
    seen: Counter[tuple[str, str, str]] = Counter()
    for finding in findings:
        same = (finding.rule.code, finding.path.name, finding.source)
        seen[same] += 1
        # Stable when lines move: of the rule, the file, the text of the line, and its count.
        parts = "\0".join((*same, str(seen[same]))).encode("utf-8", "replace")
        yield _result(finding, hashlib.sha256(parts).hexdigest()[:32])


def _result(finding: Finding, fingerprint: str) -> Json:
    region = {
        "startLine": finding.line,
        "startColumn": finding.column,
        "endLine": finding.end_line,
    }
    location = {"artifactLocation": _artifact(finding.shown_path), "region": region}
    result: dict[str, object] = {
        "ruleId": finding.rule.code,
        "ruleIndex": RULES.index(finding.rule),
        "level": _LEVELS[finding.rule.severity],
        "message": {"text": f"{finding.message}\n\n{finding.help}"},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {"migrationLine/v1": fingerprint},
    }
    if finding.suppressed is not None:
        result["suppressions"] = [{"kind": "inSource", "justification": finding.suppressed}]
    return result


def _artifact(path: Path) -> Json:
    if path.is_absolute():
        return {"uri": path.as_uri()}
    uri = quote(path.as_posix().encode("utf-8", "surrogateescape"))
    return {"uri": uri, "uriBaseId": "%SRCROOT%"}
