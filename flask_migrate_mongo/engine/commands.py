"""The commands that run migrations, for what can run a target: really, or as a dry run."""

from __future__ import annotations

from flask_migrate_mongo.model.reports import RunReport
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.planning.plans import Target

from .options import DEFAULTS, Options


class RunMethods:
    """`up`, `down` and `redo`."""

    __slots__ = ()

    def run(self, target: Target, options: Options = DEFAULTS) -> RunReport:
        """Run what a target leads to."""
        raise NotImplementedError

    def up(
        self,
        options: Options = DEFAULTS,
        *,
        to: str | int | None = None,
        steps: int | None = None,
        allow_drift: bool = False,
    ) -> RunReport:
        """Apply what is pending, in ascending order: up to a version, or so many steps; see `run`."""
        return self.run(Target(Direction.UP, steps, to, allow_drift=allow_drift), options)

    def down(
        self,
        options: Options = DEFAULTS,
        *,
        steps: int | None = None,
        to: str | int | None = None,
        batch: bool = False,
        allow_drift: bool = False,
    ) -> RunReport:
        """Roll back applied migrations, in reverse order of application; see `Target` and `run`."""
        return self.run(Target(Direction.DOWN, steps, to, batch, allow_drift=allow_drift), options)

    def redo(
        self,
        version: str | int | None = None,
        options: Options = DEFAULTS,
        *,
        allow_drift: bool = False,
    ) -> RunReport:
        """Roll back the last migration, or this one, and apply it again; see `run`."""
        target = Target(Direction.UP, to=version, redo=True, allow_drift=allow_drift)
        return self.run(target, options)
