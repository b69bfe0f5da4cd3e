"""A unique index over the airports of the world, some of which are there more than once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import airportsdata

from tests.content import content

if TYPE_CHECKING:
    from tests.project import Project

PLANTED = {"EDDF": 3, "KJFK": 2, "RJTT": 2}


def test_the_duplicates_that_a_dry_run_names_are_those_that_the_run_fails_on(
    project: Project,
) -> None:
    every = airportsdata.load("ICAO").values()
    airports = [a for n, a in enumerate(every) if n % 10 == 0 or a["icao"] in PLANTED]
    again = [dict(a) for a in airports for _ in range(PLANTED.get(a["icao"], 1) - 1)]
    project.db.airports.insert_many([*map(dict, airports), *again])
    project.write("1_unique", "def up(db): db.airports.create_index('icao', unique=True)")
    before = content(project.db)

    dry = project.run("up", "--dry-run", "--json")

    assert content(project.db) == before
    assert dry.returncode == 1
    (step,) = json.loads(dry.stdout)["steps"]
    (index,) = step["notExecuted"]
    assert (step["verdict"], index["operation"]) == ("would fail", "createIndexes")
    assert {each["key"]["icao"]: each["count"] for each in index["violations"]} == PLANTED
    assert index["documents"] == len(airports) + 4

    real = project.run("up", "--json")

    assert real.returncode == 1
    (failed,) = json.loads(real.stdout)["steps"]
    assert failed["error"]["type"] == step["error"]["type"] == "DuplicateKeyError"
    assert any(
        f'icao: "{icao}"' in failed["error"]["message"].replace("'", '"') for icao in PLANTED
    )

    for icao, count in PLANTED.items():
        for _ in range(count - 1):
            project.db.airports.delete_one({"icao": icao})
    assert project.run("up", "--dry-run").returncode == 4
    assert project.run("up").returncode == 0
