"""Who runs something: the user, the host and the process."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import Actor

if TYPE_CHECKING:
    import pytest


def test_without_a_name_of_the_user_the_number_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # A service on Windows has none of these variables, and Windows has no module pwd.
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "pwd", None)
    assert Actor.current("up").user == f"uid {os.getuid()}"
