"""The base of all reports: each is a JSON document, and raises for its failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self

    from .errors import MigrateError


def _no_schemas(name: str, _: object) -> dict[str, Any]:
    raise NotImplementedError(name)


dump: Callable[[str, object], dict[str, Any]] = _no_schemas
"""Builds the JSON document of this name from a value. The interfaces, which have the schemas, set it."""


class DeploymentKind(str, Enum):
    """How the servers of a database belong together."""

    REPLICA_SET = "replica-set"
    SHARDED = "sharded"
    STANDALONE = "standalone"
    LOAD_BALANCED = "load-balanced"
    MONGOMOCK = "mongomock"


@dataclass(frozen=True, slots=True)
class MigratedDatabase:
    """The database that a report is about: its name and its servers, never a user or a password.

    `kind` is None if the client has not connected yet. `replica_set` is the name of the set.
    """

    name: str
    hosts: tuple[str, ...] = ()
    kind: DeploymentKind | None = None
    replica_set: str | None = None

    @property
    def described_kind(self) -> str:
        """What the servers are, in words; empty if that is not known."""
        words = "" if self.kind is None else self.kind.value.replace("-", " ")
        return f"{words} {self.replica_set or ''}".rstrip()

    def __str__(self) -> str:
        where = f" on {', '.join(self.hosts)}" if self.hosts else ""
        return f"{self.name}{where}{f' ({self.described_kind})' if self.kind else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a command found or did, and in which database; None if it looked at files alone."""

    database: MigratedDatabase | None = None

    _document: ClassVar[str]
    """The name of its JSON document."""

    @property
    def failure(self) -> MigrateError | None:
        """The error that the command ends with; None if it succeeds."""
        return None

    @property
    def cause(self) -> BaseException | None:
        """The exception that led to the failure, where there is one in this process."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Build the document that the command prints with `--json`."""
        return dump(self._document, self)

    def raise_for_failure(self) -> Self:
        """Raise the failure, which carries this report as `report`; without one, return the report."""
        failure = self.failure
        if failure is None:
            return self
        failure.report = self
        if self.cause is None:
            raise failure
        raise failure from self.cause
