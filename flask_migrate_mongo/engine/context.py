"""What a migration's functions get as `ctx`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from flask import Flask
    from pymongo.client_session import ClientSession

    from flask_migrate_mongo.model.reports import Backfilled


@dataclass(frozen=True, slots=True)
class Context:
    """What `up()` and `down()` get as `ctx`.

    `ensure_lease()` asks the server, and raises LeaseLostError if this run no longer holds the lock: long
    loops of non-transactional migrations call it before each batch of writes. `backfill()` is such a loop
    that resumes where it was interrupted. `session` is None in a non-transactional migration. With
    `rehearsal`, all writes are removed afterwards: skip what cannot be rolled back, such as a mail.
    """

    app: Flask
    log: logging.Logger
    ensure_lease: Callable[[], None]
    backfill: Callable[..., Backfilled]
    session: ClientSession | None = None
    rehearsal: bool = False
