"""The floor: the same commands, sent again by an application that does nothing else.

It is what the start of an application, the driver and the server need in any case. What our command takes
above it is our own work.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import peers, replay
from .measuring import LIMIT_SECONDS, Competitor, no_flaw, timed
from .projects import Project

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .peers import Site

NAME = "the same commands alone"

_RECORDED = """\
from pymongo import monitoring
from replay import Recorder

monitoring.register(Recorder())
"""


def _settings(_: Site) -> Mapping[str, str]:
    script = Path(replay.__file__).read_text(encoding="utf-8")
    return {"app.py": _RECORDED + peers.APP, "replay.py": script}


PEER = replace(peers.OURS, name=NAME, settings=_settings)
"""Ours, with an application that records the commands it sends."""


class Floor(Project):
    """Our command runs once; then the commands that it has sent are sent again."""

    def status(self) -> Competitor:
        """Read what is shown, and show nothing."""
        # The replay itself checks that it reads as much.
        return replace(_alone(super().status()), flaw=no_flaw)

    def up(self, applied: int = 0) -> Competitor:
        """Write what `up` writes."""
        return _alone(super().up(applied))

    def up_with_nothing_pending(self) -> Competitor:
        """Read what shows that nothing is pending."""
        return _alone(super().up_with_nothing_pending())

    def down(self) -> Competitor:
        """Write what `down` writes."""
        return _alone(super().down())


def _alone(ours: Competitor) -> Competitor:
    (ours.folder / replay.RECORDING).unlink(missing_ok=True)
    timed(ours, LIMIT_SECONDS)
    return replace(ours, command=(ours.command[0], "--app", "replay", "replay"))
