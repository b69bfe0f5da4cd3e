"""Acts before a certain command of this process: mongod ignores `skip` of a failpoint that has `times`."""

from __future__ import annotations

import threading
from contextvars import Context
from typing import TYPE_CHECKING, Any

from pymongo.monitoring import _EventListeners

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pymongo import MongoClient


class Countdown:
    """Counts commands of this process, except those of the client `ignored`."""

    def __init__(self, ignored: MongoClient[dict[str, Any]]) -> None:
        self._ignored = ignored._event_listeners
        self._mutex = threading.Lock()
        self._commands: Collection[str] = ()
        self._left = 0
        self._act: Callable[[], None] | None = None

    def begin(self, commands: Collection[str], skip: int, act: Callable[[], None]) -> None:
        """Call `act` before the command that follows the next `skip` of these."""
        self._commands, self._left, self._act = commands, skip, act

    def stop(self) -> None:
        """Call nothing."""
        self._act = None

    def patched(self) -> Callable[..., None]:
        """Make what replaces `_EventListeners.publish_command_start`."""
        start = _EventListeners.publish_command_start

        def begin(listeners: _EventListeners, command: Any, *rest: Any, **named: Any) -> None:
            if listeners is not self._ignored and next(iter(command)) in self._commands:
                self._count()
            start(listeners, command, *rest, **named)

        return begin

    def _count(self) -> None:
        with self._mutex:
            act = self._act if self._left == 0 else None
            self._left -= 1
            if act is not None:
                self._act = None
                # In a context of its own: a migration's has a session that `act` must not use. And unseen:
                # a rehearsal refuses commands to other databases.
                own = vars(self._ignored)
                own["publish_command_start"] = lambda *_, **__: None
                try:
                    Context().run(act)
                finally:
                    del own["publish_command_start"]
