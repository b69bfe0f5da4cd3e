"""The page of each rule: it exists, its Bad example breaks the rule, its Good example breaks none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo.lint.linter import Linter
from flask_migrate_mongo.lint.rules import BY_CODE, RULES, Rule
from tests.project import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = ROOT / "docs" / "rules"
NAME = "20261122001_change_users.py"

_EXAMPLE = r"^## {heading}\n\n```python(?: name=(\S+))?\n(.*?)^```$"


def codes(folder: Path, rule: Rule, heading: str) -> list[str]:
    """List the codes of the findings in an example of a rule's page."""
    text = (PAGES / f"{rule.code}.md").read_text(encoding="utf-8")
    (example,) = re.findall(_EXAMPLE.format(heading=heading), text, re.DOTALL | re.MULTILINE)
    path = folder / (example[0] or NAME)
    path.write_text(example[1], encoding="utf-8")
    return [finding.rule.code for finding in Linter().lint([path]).findings]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_bad_example_of_a_page_breaks_its_rule(tmp_path: Path, rule: Rule) -> None:
    assert rule.code in codes(tmp_path, rule, "Bad")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_good_example_of_a_page_breaks_no_rule(tmp_path: Path, rule: Rule) -> None:
    assert codes(tmp_path, rule, "Good") == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_every_rule_has_its_page_and_its_row_in_the_index(rule: Rule) -> None:
    page = (PAGES / f"{rule.code}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {rule.code}: {rule.title}\n")
    said = {"error": "An error. ", "warning": "A warning. ", "info": "A hint. "}
    assert said[rule.severity.value] in page
    row = f"| [{rule.code}](rules/{rule.code}.md) | {rule.severity.value} | {rule.title} |"
    assert row in (ROOT / "docs" / "lint.md").read_text(encoding="utf-8").splitlines()


def test_there_is_no_page_of_a_removed_rule() -> None:
    assert {page.stem for page in PAGES.glob("*")} == BY_CODE.keys()


def test_the_examples_of_the_other_pages_have_no_findings(tmp_path: Path) -> None:
    shown = 0
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for name, source in re.findall(
            r"^```python file=migrations/(\S+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
        ):
            path = tmp_path / name
            path.write_text(source, encoding="utf-8")
            shown += 1
            assert Linter().lint([path]).findings == (), f"{page.name}: {name}"
    assert shown > 4
