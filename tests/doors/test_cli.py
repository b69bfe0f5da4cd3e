"""The command line, end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.project import Project


def test_up_applies_what_is_pending_and_says_so(project: Project) -> None:
    project.write_inserts(20261101001, 20261101002)
    result = project.invoke("up")
    assert result.exit_code == 0, result.output
    assert "Applied 2 migrations as batch 1" in result.stdout
    assert project.statuses() == {20261101001: "completed", 20261101002: "completed"}
    assert [d["version"] for d in project.db.done.find()] == [20261101001, 20261101002]
