"""The floor under our figures: the commands that we send, alone, by an application that does nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import peers, replay, report
from .measuring import LIMIT_SECONDS, Competitor, no_flaw, timed
from .projects import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .peers import Site

_RECORDED = """\
from pymongo import monitoring
from replay import Recorder

monitoring.register(Recorder())
"""


def _settings(site: Site) -> Mapping[str, str]:
    script = Path(replay.__file__).read_text(encoding="utf-8")
    return {"app.py": _RECORDED + peers.OURS.settings(site)["app.py"], "replay.py": script}


PEER = replace(peers.OURS, name=report.ALONE, settings=_settings)
"""Ours with an application that records what is sent."""


class Floor(Project):
    """What can be timed of it: our command runs once, then what it has sent is sent again."""

    def status(self, applied: int) -> Competitor:
        """Read what is shown, and show nothing."""
        # That as much is read is looked at by the one that reads.
        return replace(_alone(super().status(applied)), flaw=no_flaw)

    def up(self, begin: Callable[[], None]) -> Competitor:
        """Write what `up` writes."""
        return _alone(super().up(begin))

    def up_with_nothing_pending(self) -> Competitor:
        """Read what says that nothing is pending."""
        return _alone(super().up_with_nothing_pending())

    def down(self) -> Competitor:
        """Write what `down` writes."""
        return _alone(super().down())


def _alone(ours: Competitor) -> Competitor:
    (ours.folder / replay.RECORDING).unlink(missing_ok=True)
    timed(ours, LIMIT_SECONDS)
    return replace(ours, command=(ours.command[0], "--app", "replay", "replay"))
