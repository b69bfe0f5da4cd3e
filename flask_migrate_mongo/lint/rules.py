"""The rules of lint: one table of what each is about, how bad it is, and what to do instead."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.errors import InvalidRequestError

from . import code_checks, data_checks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from .calls import Hit, Migration


class Severity(str, Enum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: what it is about, what looks for it, the safer way, and code to paste.

    `check` is None for what reading the file finds. `{collection}` in `paste` is filled in.
    """

    code: str
    severity: Severity
    title: str
    check: Callable[[Migration], Iterator[Hit]] | None
    safer: str
    paste: str

    def code_for(self, collection: str = "") -> str:
        """Return code to paste, for this collection."""
        return self.paste.replace("{collection}", collection or "users")

    def help(self, collection: str = "") -> str:
        """Return the safer way, and code for this collection."""
        return f"{self.safer}\n\n{self.code_for(collection)}"


UNREADABLE = "MM000"
UNEXPLAINED = "MM090"
UNUSED = "MM091"

_ERROR, _WARNING, _INFO = Severity

RULES: tuple[Rule, ...] = (
    Rule(
        UNREADABLE,
        _ERROR,
        "A file that cannot be used",
        None,
        "Fix it, or move it out of the folder; names that begin with _ are left alone.",
        'flask db-migrate create "add user index"',
    ),
    Rule(
        "MM001",
        _WARNING,
        "No way back: there is no down()",
        data_checks.no_down,
        "Write a down(), or say above up() why there is none.",
        'def down(db):\n    db.{collection}.update_many({"flag": {"$exists": True}}, {"$unset": {"flag": ""}})',
    ),
    Rule(
        "MM002",
        _WARNING,
        "A down() that does nothing",
        data_checks.idle_down,
        "Undo in down() what up() did, or delete down(): then `down` refuses instead of pretending.",
        'def down(db):\n    db.{collection}.update_many({"flag": {"$exists": True}}, {"$unset": {"flag": ""}})',
    ),
    Rule(
        "MM003",
        _WARNING,
        "A change of every document in one statement",
        data_checks.unfiltered,
        "Match only what is yet to be done, so that a repetition goes on where it stopped; "
        "for a large collection use ctx.backfill().",
        'db.{collection}.update_many({"flag": {"$exists": False}}, {"$set": {"flag": True}})\n'
        'ctx.backfill("{collection}", {"$set": {"flag": True}}, where={"flag": {"$exists": False}})',
    ),
    Rule(
        "MM004",
        _WARNING,
        "All documents in memory at once",
        data_checks.gathered,
        "Go through the cursor in batches, or let the server do it.",
        "while batch := list(db.{collection}.find(TO_DO).limit(1_000)):\n"
        '    db.{collection}.bulk_write([UpdateOne({"_id": d["_id"]}, change(d)) for d in batch])',
    ),
    Rule(
        "MM005",
        _WARNING,
        "One write for each document of a loop",
        data_checks.one_by_one,
        "Let the server change them in one statement, or send the writes in batches.",
        'db.{collection}.update_many(TO_DO, [{"$set": {"email": {"$toLower": "$email"}}}])\n'
        'ctx.backfill("{collection}", change, where=TO_DO)',
    ),
    Rule(
        "MM006",
        _ERROR,
        "What a transaction cannot do",
        data_checks.not_in_transaction,
        "Put it into a migration of its own, without `transactional = True`.",
        'idempotent = True\n\n\ndef up(db):\n    db.{collection}.create_index("email")',
    ),
    Rule(
        "MM007",
        _WARNING,
        "A unique index over unknown duplicates",
        data_checks.unchecked_unique,
        "Look for duplicates first, and stop with a message that names them.",
        "twice = db.{collection}.aggregate(\n"
        '    [{"$group": {"_id": "$email", "n": {"$sum": 1}}}, {"$match": {"n": {"$gt": 1}}}, {"$limit": 5}]\n'
        ")\n"
        'if found := [each["_id"] for each in twice]:\n'
        '    raise ValueError(f"Used more than once: {found}")',
    ),
    Rule(
        "MM008",
        _WARNING,
        "Data that is gone for good",
        data_checks.lost_data,
        "Keep a copy until nobody needs it any more: rename instead of dropping, or copy first.",
        'db.{collection}.aggregate([{"$out": "{collection}_before"}])\n'
        'db.{collection}.update_many({"old": {"$exists": True}}, {"$rename": {"old": "old_before"}})',
    ),
    Rule(
        "MM009",
        _WARNING,
        "A transaction opened by hand",
        data_checks.own_transaction,
        "Let the runner open it: then data and record are committed together.",
        "transactional = True",
    ),
    Rule(
        "MM010",
        _ERROR,
        "A statement outside the transaction around it",
        data_checks.forgotten_session,
        "Pass the session, or better, let the runner open the transaction, where none is needed.",
        "db.{collection}.update_many(TO_DO, CHANGE, session=session)",
    ),
    Rule(
        "MM011",
        _ERROR,
        "A client of the migration's own",
        code_checks.own_client,
        "Use the database that is handed in, or another one of its client.",
        'def up(db):\n    other = db.client["reports"]',
    ),
    Rule(
        "MM012",
        _WARNING,
        "An import of the application's code",
        code_checks.application_import,
        "Copy what is needed into the migration, and name collections and fields as they were then. "
        "The application itself is `ctx.app`.",
        'STATES = {"new": 0, "paid": 1}  # as they were when this was written',
    ),
    Rule(
        "MM013",
        _WARNING,
        "Work while the file is imported",
        code_checks.import_time_work,
        "Do it in up(): files are imported before the first migration of a run starts.",
        'def up(db):\n    rows = Path(__file__).with_name("_rows.json").read_text()',
    ),
    Rule(
        "MM014",
        _WARNING,
        "Values that are others each time",
        code_checks.unrepeatable,
        "Derive the value from the document, or write it down as a constant.",
        'uuid.uuid5(NAMESPACE, str(document["_id"]))\ndatetime(2026, 11, 22, tzinfo=timezone.utc)',
    ),
    Rule(
        "MM015",
        _WARNING,
        "Several writes that a crash can divide",
        data_checks.several_writes,
        "Make it transactional; or let each write match only what is yet to be done, and say so.",
        "transactional = True\nidempotent = True  # when a repetition does no harm",
    ),
    Rule(
        "MM016",
        _INFO,
        "print() instead of the log",
        code_checks.printed,
        "Write to the log of the migration.",
        'def up(db, ctx):\n    ctx.log.info("%d documents changed", changed)',
    ),
    Rule(
        "MM017",
        _WARNING,
        "A name that misleads",
        code_checks.misnamed,
        "Say once, and in the same words as the file's name, what changes.",
        'name = "Airport location"  # 20261122001_airport_location.py',
    ),
    Rule(
        "MM018",
        _WARNING,
        "A number that misleads",
        code_checks.misnumbered,
        "Let `create` number the file, and leave the version to its name.",
        'flask db-migrate create "airport location"',
    ),
    Rule(
        "MM019",
        _WARNING,
        "A migration that sleeps",
        code_checks.slept,
        "Work in batches, and let ctx.backfill() pace them.",
        'ctx.backfill("{collection}", {"$set": {"flag": True}}, where=TO_DO, batch_size=500)',
    ),
    Rule(
        "MM020",
        _WARNING,
        "Threads and processes",
        code_checks.threads,
        "Let ctx.backfill() share the work out.",
        'ctx.backfill("{collection}", change, where=TO_DO, workers=4)',
    ),
    Rule(
        "MM021",
        _WARNING,
        "Writes past the validator",
        code_checks.bypassed_validation,
        "Change the validator first, or write what it allows.",
        'db.command("collMod", "{collection}", validator=NEW_VALIDATOR)',
    ),
    Rule(
        "MM022",
        _WARNING,
        "JavaScript on the server",
        code_checks.server_script,
        "Use an expression: it is faster, and servers that forbid scripts take it too.",
        'db.{collection}.count_documents({"$expr": {"$gt": ["$paid", "$price"]}})',
    ),
    Rule(
        "MM023",
        _ERROR,
        "A backfill in a transaction",
        data_checks.backfill_in_transaction,
        "Leave `transactional` out: a backfill is resumed where it stopped.",
        'idempotent = True\n\n\ndef up(db, ctx):\n    ctx.backfill("{collection}", CHANGE, where=TO_DO)',
    ),
    Rule(
        "MM024",
        _ERROR,
        "A caught error that has ended the transaction",
        data_checks.caught_in_transaction,
        "Look first instead of catching, or use an upsert.",
        'db.{collection}.update_one({"_id": key}, {"$setOnInsert": document}, upsert=True)',
    ),
    Rule(
        "MM025",
        _WARNING,
        "Errors that are passed over",
        data_checks.swallowed,
        "Catch the one error that is expected, and no other.",
        'except DuplicateKeyError:\n    ctx.log.info("%s is there already", key)',
    ),
    Rule(
        "MM026",
        _ERROR,
        "A write concern that does harm",
        data_checks.own_write_concern,
        "Leave it out: the runner commits with a majority.",
        "db.{collection}.insert_one(document)",
    ),
    Rule(
        "MM027",
        _ERROR,
        "A method that pymongo does not have",
        code_checks.unknown_method,
        "Use the method of today's pymongo.",
        'db.{collection}.update_many({"flag": {"$exists": False}}, {"$set": {"flag": True}})',
    ),
    Rule(
        "MM028",
        _ERROR,
        "A change that the driver refuses",
        code_checks.wrong_change,
        "Name the operator to change fields; leave operators out to replace a document.",
        'db.{collection}.update_one({"_id": key}, {"$set": {"flag": True}})\n'
        'db.{collection}.replace_one({"_id": key}, {"flag": True})',
    ),
    Rule(
        "MM029",
        _WARNING,
        "A TTL index that deletes what is there",
        data_checks.expiring,
        "Count what it would delete, and give those documents a new date first when they have to stay.",
        'old = db.{collection}.count_documents({"created": {"$lt": LIMIT}})\n'
        'ctx.log.info("The TTL index will delete %d documents", old)',
    ),
    Rule(
        UNEXPLAINED,
        _WARNING,
        "An allowance without a reason",
        None,
        "Name the rule, and say why this is right here.",
        "# migrate: allow MM001 because the archive has them all",
    ),
    Rule(
        UNUSED,
        _WARNING,
        "An allowance of what is not there",
        None,
        "Delete it, or put it on the line of the finding or the line above.",
        "# migrate: allow MM001 because the archive has them all",
    ),
)
"""Every rule, in the order of the codes."""

BY_CODE = {rule.code: rule for rule in RULES}


def chosen(select: Collection[str], ignore: Collection[str]) -> tuple[Rule, ...]:
    """Return the selected rules, all if none is, without those to ignore.

    Raises InvalidRequestError for a code that no rule has.
    """
    unknown = sorted({*select, *ignore} - BY_CODE.keys())
    if unknown:
        raise InvalidRequestError(
            f"There is no rule {', '.join(unknown)}. The rules are {', '.join(BY_CODE)}."
        )
    wanted = select or BY_CODE.keys()
    return tuple(rule for rule in RULES if rule.code in wanted and rule.code not in ignore)
