"""Makes the linter of an application."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flask_migrate_mongo.files.folder import Folder, stale
from flask_migrate_mongo.lint.linter import Linter, LintReport, owned_by
from flask_migrate_mongo.lint.rules import BY_CODE, REMOVED, chosen
from flask_migrate_mongo.model.errors import SettingError
from flask_migrate_mongo.state import AppState


def lint(
    state: AppState, files: Sequence[str], select: Sequence[str] = (), ignore: Sequence[str] = ()
) -> LintReport:
    """Lint files, given by path or version; without any, the whole folder. Executes none."""
    paths = Folder(state.settings.directory).choose(files)
    problem = stale(paths) if state.settings.linear and not files else None
    return linter(state, select, ignore).lint(paths, [problem] if problem else ())


def linter(state: AppState, select: Sequence[str] = (), ignore: Sequence[str] = ()) -> Linter:
    """Make a linter with the rules that a call selects and ignores, and the settings ignore.

    Raises InvalidRequestError, and SettingError for a rule in the settings that does not exist.
    """
    usual = state.settings.lint_ignore or ()
    if set(usual) - BY_CODE.keys() - REMOVED:
        accepts = f"codes of these rules: {', '.join(BY_CODE)}"
        raise SettingError("MIGRATE_LINT_IGNORE", usual, accepts)
    rules = chosen(select, (*ignore, *(() if select else usual)))
    is_own = owned_by(state.app.import_name, Path(state.app.root_path))
    return Linter(is_own, rules)
