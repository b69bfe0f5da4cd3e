"""What to type instead of a command that other tools have, or that is misspelled."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

_APPLY = ("apply pending migrations", "up")
_ROLL_BACK = ("roll back the last migration", "down")
_CREATE = ("create a migration", 'create "add user index"')
_STATUS = ("see what is applied and pending", "status")
_ALL = ("see every migration", "status --all")
_BASELINE = ("record migrations as applied without running them", "baseline --reason TEXT")
_CHECK = ("compare the database with the files", "check")

_ELSEWHERE: Mapping[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(("upgrade", "apply", "run", "forward"), (_APPLY,)),
    **dict.fromkeys(("downgrade", "rollback", "undo", "revert", "backward"), (_ROLL_BACK,)),
    "migrate": (_APPLY, _CREATE),
    **dict.fromkeys(("revision", "makemigrations", "generate", "make", "new", "add"), (_CREATE,)),
    **dict.fromkeys(("current", "heads", "head", "version", "info", "branches"), (_STATUS,)),
    **dict.fromkeys(("showmigrations", "list", "ls"), (_ALL,)),
    "log": (("see what was run, the newest first", "history"),),
    **dict.fromkeys(("stamp", "fake", "mark"), (_BASELINE,)),
    **dict.fromkeys(("validate", "verify"), (_CHECK,)),
    **dict.fromkeys(("sql", "sqlmigrate"), (("see what would run", "plan"),)),
    **dict.fromkeys(
        ("dry-run", "dryrun"), (("execute the plan and roll it back", "up --dry-run"),)
    ),
    "init": (("create the folder with the first migration", 'create "add user index"'),),
    "merge": (("give a migration the next free number", "renumber VERSION"),),
    "repair": (
        ("settle a migration as applied", "resolve VERSION --applied --reason TEXT"),
        ("or as not applied", "resolve VERSION --not-applied --reason TEXT"),
    ),
    "squashmigrations": (("join old migrations into one", "squash FROM TO NAME"),),
    **dict.fromkeys(("lock", "locks"), (("see who holds the lock", "lock-status"),)),
    "unlock": (("release the lock of a dead process", "force-unlock --confirm"),),
    **dict.fromkeys(("diff", "dump"), (("compare the declared schema", "schema diff"),)),
}
"""Commands of other tools, each with what it is for and what that is here."""


def hint(name: str, known: Collection[str]) -> str:
    """Say what to type instead of a command that does not exist."""
    missing = f"There is no `{name}` here."
    plain = name.lower().replace("_", "-")
    for_what = _ELSEWHERE.get(plain) or _ELSEWHERE.get(plain.replace("-", ""))
    if for_what is not None:
        ways = (f"To {what}: flask db-migrate {command}" for what, command in for_what)
        return "\n".join((missing, *ways))
    near = get_close_matches(plain, known)
    if near:
        return f"{missing} Did you mean: {', '.join(near)}?"
    return f"{missing} See all commands: flask db-migrate --help"
