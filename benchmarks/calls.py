"""Count what one empty migration calls in the package: `calls.py PACKAGE`, with MONGO_URI.

Runs `flask db-migrate up` in this process, and prints the counts as JSON. The first run only imports; the
second one is counted. Code that runs while a module or a class is defined does not count, nor does a
comprehension, which newer versions of Python do not call. Only the calls of the main thread count.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask

from flask_migrate_mongo import MongoMigrate

if TYPE_CHECKING:
    from types import CodeType, FrameType

_MIGRATION = '"""Change nothing."""\n\n\ndef up(db):\n    pass\n\n\ndef down(db):\n    pass\n'
_NOT_CALLED = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}


class CallCounter:
    """A profile function that counts the calls of the functions in a folder."""

    def __init__(self, package: Path) -> None:
        self._package = f"{package}{os.sep}"
        self._starts: dict[CodeType, int] = {}
        self.calls: Counter[CodeType] = Counter()
        self.file_changes = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Note the start of a function of the package."""
        if event != "call" or not self._is_ours(frame) or not self._begins(frame):
            return
        self.calls[frame.f_code] += 1
        caller = frame.f_back
        while caller is not None and not self._is_ours(caller):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != frame.f_code.co_filename:
            self.file_changes += 1

    def _is_ours(self, frame: FrameType) -> bool:
        code = frame.f_code
        is_function = bool(code.co_flags & inspect.CO_OPTIMIZED) and code.co_name not in _NOT_CALLED
        return is_function and code.co_filename.startswith(self._package)

    def _begins(self, frame: FrameType) -> bool:
        """Whether this is a call, and not a generator that continues."""
        return self._starts.setdefault(frame.f_code, frame.f_lasti) == frame.f_lasti


def _up(root: Path, uri: str, counter: CallCounter | None = None) -> None:
    (root / "migrations").mkdir(parents=True)
    (root / "migrations" / "20260101001_empty.py").write_text(_MIGRATION, encoding="utf-8")
    app = Flask("figures", root_path=str(root))
    app.config["MONGO_URI"] = uri
    MongoMigrate(app)
    runner = app.test_cli_runner()
    sys.setprofile(counter)
    try:
        result = runner.invoke(args=["db-migrate", "up"])
    finally:
        sys.setprofile(None)
    assert result.exit_code == 0, result.output


def main(package: Path) -> None:
    """Run `up` twice, each time in a fresh project on a fresh database, and print the counts."""
    counter = CallCounter(package.resolve())
    with tempfile.TemporaryDirectory(prefix="figures-") as folder:
        uri = os.environ["MONGO_URI"]
        _up(Path(folder) / "first", uri.replace("/?", "/figures_first?"))
        _up(Path(folder) / "counted", uri.replace("/?", "/figures_counted?"), counter)
    calls = sum(counter.calls.values())
    print(json.dumps([calls, len(counter.calls), counter.file_changes]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
