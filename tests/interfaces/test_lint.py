"""`flask db-migrate lint`, end to end: each format, each option, bad input, and the record of `up`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from flask_migrate_mongo.lint.rules import BY_CODE, RULES

if TYPE_CHECKING:
    from click.testing import Result

    from tests.project import Project

CLEAN = """
def up(db):
    db.done.insert_one({"_id": 1})


def down(db):
    db.done.delete_one({"_id": 1})
"""
SCRIPT = "db.done.find({'$where': '1'})"
SCRIPTED = CLEAN.replace("db.done.ins", f"{SCRIPT}\n    db.done.ins")
UNFILTERED = CLEAN.replace(
    "db.done.ins", 'db.done.update_many({}, {"$set": {"a": 1}})\n    db.done.ins'
)
REFUSED = "transactional = True\n" + CLEAN.replace(
    "db.done.ins", "db.old.drop_index('a')\n    db.done.ins"
)
SUPPRESSED = CLEAN.replace(
    "db.done.ins",
    f"{SCRIPT}  # migrate: allow MM022 because it is shown, 100%\n    db.done.ins",
)
FILE = "20261122001_change.py"


def lint(project: Project, *args: str, **settings: object) -> Result:
    return project.invoke("lint", *args, **settings)


def document(project: Project, *args: str, **settings: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lint(project, "--format", "json", *args, **settings).stdout)
    return found


def found(project: Project, *args: str, **settings: object) -> list[str]:
    return [finding["code"] for finding in document(project, *args, **settings)["findings"]]


# --- what it prints


def test_the_text_gives_each_place_on_one_line_and_the_advice_once(project: Project) -> None:
    project.write("20261122001_change", UNFILTERED)
    project.write("20261122002_change", UNFILTERED.replace("done", "users"))
    result = lint(project)
    places = re.findall(r"^(\S+):(\d+):(\d+): (MM\d+) (.*)$", result.stdout, re.MULTILINE)
    assert [(p[0].rpartition("/")[2], *p[1:4]) for p in places if p[3] == "MM003"] == [
        ("20261122001_change.py", "3", "5", "MM003"),
        ("20261122002_change.py", "3", "5", "MM003"),
    ]
    assert "db.done.update_many()" in places[0][4] or "MM015" in places[0][3]
    assert result.stdout.count("    ctx.backfill(") == 1
    assert result.stdout.count("docs/rules/MM003.md\n") == 1
    assert result.stdout.splitlines()[-1] == "Found in 2 migrations: 4 warnings."
    assert (result.stderr, result.exit_code) == ("", 4)


def test_a_project_without_findings_says_so(project: Project) -> None:
    assert lint(project).stdout == "Nothing found in 0 migrations.\n"
    project.write(FILE, CLEAN)
    result = lint(project)
    assert (result.stdout, result.exit_code) == ("Nothing found in 1 migration.\n", 0)


def test_suppressed_findings_are_counted_and_do_not_fail(project: Project) -> None:
    project.write(FILE, SUPPRESSED)
    result = lint(project, "--fail-on", "info")
    assert result.exit_code == 0
    assert result.stdout == "Nothing found in 1 migration. 1 suppressed by comments.\n"


def test_the_json_has_every_fact_of_a_finding(project: Project) -> None:
    path = project.write(FILE, REFUSED)
    printed = document(project)
    (finding,) = printed["findings"]
    assert {**finding, "message": "", "help": ""} == {
        "code": "MM006",
        "severity": "error",
        "path": path.as_posix(),
        "line": 4,
        "column": 5,
        "endLine": 4,
        "function": "up",
        "message": "",
        "help": "",
    }
    assert "drop_index" in finding["message"]
    assert "idempotent = True" in finding["help"]
    assert printed["summary"] == {
        "files": 1,
        "findings": 1,
        "errors": 1,
        "warnings": 0,
        "infos": 0,
        "allowed": 0,
    }


def test_every_field_of_the_json_is_in_the_reference(project: Project) -> None:
    from tests.interfaces.test_docs import REFERENCE, fields  # noqa: PLC0415

    project.write(FILE, REFUSED)
    text = REFERENCE.read_text(encoding="utf-8")
    assert [name for name in fields(document(project)) if f"`{name}`" not in text] == []


def test_github_gets_one_command_a_finding_with_everything_escaped(project: Project) -> None:
    project.write("20261122001_a,b:c%d.py", SCRIPTED)
    project.write("20261122002_change.py", REFUSED)
    lines = lint(project, "--format", "github").stdout.splitlines()
    commands = [re.fullmatch(r"::(error|warning|notice) ([^:]*)::(.*)", line) for line in lines]
    parsed = [
        (match[1], dict(p.split("=") for p in match[2].split(",")), unquote(match[3]))
        for match in commands
        if match
    ]
    assert len(parsed) == len(lines) == 2
    (warning, where, text), (error, _, _) = parsed
    assert (warning, error) == ("warning", "error")
    assert unquote(where["file"]).endswith("/20261122001_a,b:c%d.py")
    assert (where["line"], where["endLine"], where["col"]) == ("3", "3", "5")
    assert where["title"] == "MM022 JavaScript on the server"
    assert text.startswith("`$where` runs JavaScript")
    assert text.endswith('({"$expr": {"$gt": ["$paid", "$price"]}})')


def test_a_path_below_the_current_folder_is_shown_from_there(project: Project) -> None:
    project.write(FILE, SCRIPTED)
    assert project.run("lint", "--format", "github").stdout.startswith(
        f"::warning file=migrations/{FILE},"
    )


# --- SARIF: what its schema requires


def sarif_of(project: Project, *args: str) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(project.run("lint", "--format", "sarif", *args).stdout)
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    return dict(run)


def test_the_sarif_describes_every_rule(project: Project) -> None:
    driver = sarif_of(project)["tool"]["driver"]
    assert driver["name"]
    assert re.fullmatch(r"\d+\.\d+.*", driver["version"])
    assert [rule["id"] for rule in driver["rules"]] == list(BY_CODE)
    for described, rule in zip(driver["rules"], RULES, strict=True):
        assert described["shortDescription"]["text"] == rule.title
        assert rule.advice in described["help"]["text"]
        assert "{collection}" not in json.dumps(described)
        assert described["defaultConfiguration"]["level"] in {"error", "warning", "note"}
        # An absolute URI, as the schema wants it, that ends with the name of the page.
        assert re.fullmatch(
            rf"[a-z][a-z0-9+.-]*:\S+docs/rules/{rule.code}\.md", described["helpUri"]
        )


def test_the_sarif_has_a_result_for_each_finding_and_each_suppressed_finding(
    project: Project,
) -> None:
    project.write(FILE, SUPPRESSED + "# migrate: allow MM001\n")
    project.write("20261122002_ändern.py", REFUSED)
    run = sarif_of(project)
    assert run["columnKind"] == "unicodeCodePoints"
    results = run["results"]
    assert [result["ruleId"] for result in results] == ["MM022", "MM090", "MM006"]
    for result in results:
        assert result["ruleId"] == run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"]
        assert result["level"] in {"error", "warning", "note"}
        assert result["message"]["text"]
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert place["artifactLocation"]["uriBaseId"] == "%SRCROOT%"
        assert place["artifactLocation"]["uri"].isascii()
        assert 1 <= place["region"]["startLine"] <= place["region"]["endLine"]
        assert place["region"]["startColumn"] >= 1
    uri = results[2]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert unquote(uri) == "migrations/20261122002_ändern.py"
    assert results[0]["suppressions"] == [
        {"kind": "inSource", "justification": "it is shown, 100%"}
    ]
    assert "suppressions" not in results[1]


def test_the_fingerprint_of_a_finding_stays_when_lines_move_and_differs_from_its_twin(
    project: Project,
) -> None:
    def fingerprints() -> list[str]:
        results = sarif_of(project, "--select", "MM022")["results"]
        return [result["partialFingerprints"]["migrationLine/v1"] for result in results]

    project.write(FILE, SCRIPTED.replace(SCRIPT, f"{SCRIPT}\n    {SCRIPT}"))
    before = fingerprints()
    assert len(set(before)) == 2
    project.write(FILE, "\n\nX = 1\n" + SCRIPTED.replace(SCRIPT, f"{SCRIPT}\n    X\n    {SCRIPT}"))
    assert fingerprints() == before


# --- exit codes


@pytest.mark.parametrize(("source", "least"), [(REFUSED, "error"), (UNFILTERED, "warning")])
def test_it_fails_on_the_given_severity_and_above(
    project: Project, source: str, least: str
) -> None:
    project.write(FILE, source)
    order = ["info", "warning", "error", "never"]
    for asked in order:
        expected = 4 if order.index(asked) <= order.index(least) else 0
        assert lint(project, "--fail-on", asked).exit_code == expected, asked
    assert lint(project).exit_code == 4


@pytest.mark.parametrize("layout", ["text", "json", "github", "sarif"])
def test_every_format_ends_with_the_same_code(project: Project, layout: str) -> None:
    project.write(FILE, REFUSED)
    assert lint(project, "--format", layout).exit_code == 4
    project.write(FILE, CLEAN)
    assert lint(project, "--format", layout).exit_code == 0


# --- which files, which rules


def test_files_can_be_named_by_path_and_by_version(project: Project) -> None:
    one = project.write("20261122001_change", SCRIPTED)
    project.write("20261122002_change", SCRIPTED)
    assert len(found(project)) == 2
    assert len(found(project, str(one))) == 1
    assert len(found(project, "20261122002", str(one))) == 2
    assert len(found(project, str(project.migrations))) == 2
    assert found(project, "20261122002", "--select", "MM001") == []


def test_rules_are_selected_and_ignored(project: Project) -> None:
    project.write(FILE, SCRIPTED + "\nprint(2)\n")
    assert set(found(project)) == {"MM013", "MM022"}
    assert found(project, "--select", "mm022") == ["MM022"]
    assert found(project, "--ignore", "MM022,MM013") == []
    assert found(project, "--ignore", "MM022", "--ignore", "MM013") == []
    assert found(project, "--select", "MM013, MM022", "--ignore", "MM022") == ["MM013"]


def test_the_setting_ignores_rules_unless_some_are_selected(project: Project) -> None:
    project.write(FILE, SCRIPTED)
    assert found(project, MIGRATE_LINT_IGNORE="MM022") == []
    assert found(project, "--select", "MM022", MIGRATE_LINT_IGNORE="MM022") == ["MM022"]


def test_the_setting_may_still_name_a_removed_rule(project: Project) -> None:
    project.write(FILE, SCRIPTED)
    assert found(project, MIGRATE_LINT_IGNORE="MM016") == ["MM022"]


def test_modules_beside_the_application_are_its_own(project: Project) -> None:
    (project.root / "models.py").write_text("raise RuntimeError('executed')", encoding="utf-8")
    project.write(FILE, "import models\nimport json\nimport bson\n" + CLEAN)
    (finding,) = document(project)["findings"]
    assert (finding["code"], finding["line"]) == ("MM012", 1)


def test_a_new_file_has_only_the_findings_that_are_left_to_do(project: Project) -> None:
    for args in (("create", "a name"), ("create", "another", "--transactional")):
        assert project.invoke(*args).exit_code == 0
    assert found(project) == ["MM030", "MM002", "MM030", "MM002"]


# --- bad input


def test_a_broken_file_is_a_finding_with_its_line_and_the_rest_is_checked(
    project: Project,
) -> None:
    project.write("20261122001_broken", "\n\ndef up(db:\n")
    (project.migrations / "20261122002_latin.py").write_bytes(b"name = '\xe9'\n")
    project.write("20261122003_script", SCRIPTED)
    project.write("20261122004_empty", "")
    result = lint(project, "--select", "MM022")
    lines = [line for line in result.stdout.splitlines() if ".py:" in line]
    assert [re.sub(r"^.*/", "", line).split(" ")[:2] for line in lines] == [
        ["20261122001_broken.py:3:1:", "MM000"],
        ["20261122002_latin.py:1:1:", "MM000"],
        ["20261122003_script.py:3:5:", "MM022"],
        ["20261122004_empty.py:1:1:", "MM000"],
    ]
    assert result.exit_code == 4


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("missing.py",), "There is no file 'missing.py'"),
        (("20261122009",), "no migration with that number"),
        (("",), "There is no file ''"),
        (("--select", "MM999"), "There is no rule MM999. The rules are MM000,"),
        (("--ignore", "no-such"), "There is no rule NO-SUCH"),
        (("--select", ""), "where a rule like MM001 should be"),
        (("--select", "MM001,"), "where a rule like MM001 should be"),
        (("--format", "xml"), "is not one of"),
        (("--fail-on", "always"), "is not one of"),
    ],
)
def test_bad_input_is_refused_with_what_to_type(
    project: Project, args: tuple[str, ...], said: str
) -> None:
    project.write(FILE, CLEAN)
    result = lint(project, *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    if "--format" not in args:
        problem = json.loads(lint(project, *args, "--format", "json").stdout)
        assert (problem["code"], said in problem["detail"]) == ("invalid-request", True)


def test_a_folder_that_is_not_there_is_named(project: Project) -> None:
    result = lint(project, MIGRATE_DIRECTORY="nowhere")
    assert result.exit_code == 6
    assert "nowhere does not exist" in result.stderr


def test_a_setting_with_an_unknown_rule_is_refused(project: Project) -> None:
    result = lint(project, MIGRATE_LINT_IGNORE=["MM998"])
    assert result.exit_code == 6
    assert "MIGRATE_LINT_IGNORE is ('MM998',), but it accepts codes of these rules" in result.stderr


def test_control_characters_in_a_name_are_escaped(project: Project) -> None:
    project.write("20261122001_\x1b[31m.py", SCRIPTED)
    shown = lint(project).stdout
    assert "\x1b" not in shown
    assert "20261122001_\\x1b[31m.py:3:5: MM022" in shown


def test_it_needs_no_database(project: Project) -> None:
    project.write(FILE, SCRIPTED)
    done = project.run("lint", "--fail-on", "info", MONGO_URI="mongodb://127.0.0.1:1/none")
    assert (done.returncode, done.stderr) == (4, "")


# --- the record


def test_up_records_the_suppressions_with_their_reasons(project: Project) -> None:
    project.write("20261122001_suppressed", SUPPRESSED)
    project.write("20261122002_plain", CLEAN.replace("1}", "2}"))
    assert project.invoke("up").exit_code == 0
    assert project.record(20261122001)["metadata"]["allowed"] == [
        {"code": "MM022", "reason": "it is shown, 100%"}
    ]
    assert project.record(20261122002)["metadata"]["allowed"] == []
    assert project.invoke("down").exit_code == 0
    assert project.record(20261122001)["metadata"]["allowed"] != []
