"""The table of rules: what each one finds, how severe it is, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from flask_migrate_mongo.model.errors import InvalidRequestError

from . import checks


class Severity(str, Enum):
    """How severe a finding is."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. `check` is None if the linter itself finds what breaks it.

    `example` is code to paste; `{collection}` in it is replaced by the collection of the finding.
    """

    code: str
    title: str
    check: Callable[[checks.ParsedMigration], checks.Hits] | None
    advice: str
    example: str
    severity: Severity = Severity.WARNING

    def example_for(self, collection: str = "") -> str:
        """Fill the name of a collection into the example."""
        return self.example.replace("{collection}", collection or "users")

    @property
    def page(self) -> str:
        """Its page in the documentation."""
        return f"docs/rules/{self.code}.md"

    def help(self, collection: str = "") -> str:
        """Combine the advice with the example for a collection."""
        return f"{self.advice}\n\n{self.example_for(collection)}"


UNREADABLE = "MM000"
UNEXPLAINED = "MM090"
UNUSED = "MM091"
REMOVED = frozenset({"MM014", "MM016", "MM017", "MM018", "MM025"})
"""Codes of former rules. Comments and settings that still name them have no effect."""

_ERROR = Severity.ERROR
_DOWN = """\
def down(db):
    db.{collection}.update_many({"flag": {"$exists": True}}, {"$unset": {"flag": ""}})"""
_SUPPRESSION = "# migrate: allow MM001 because the archive contains all of them"

RULES: tuple[Rule, ...] = (
    Rule(UNREADABLE, "The file cannot be used", None,
         "Fix it, or move it out of the folder. Files whose name begins with _ are ignored.",
         'flask db-migrate create "add user index"', _ERROR),
    Rule("MM001", "There is no down()", checks.missing_down,
         "Write a down(), or suppress this finding above up() with the reason why there is none.",
         _DOWN),
    Rule("MM002", "down() does nothing", checks.empty_down,
         "Reverse the changes of up() in down(), or delete down(): then the command `down` refuses to run.",
         _DOWN),
    Rule("MM003", "One statement changes every document", checks.unfiltered,
         "Match only documents that still need the change, so that a second run continues where the "
         "first one stopped. For a large collection use ctx.backfill().",
         'db.{collection}.update_many({"flag": {"$exists": False}}, {"$set": {"flag": True}})\n'
         'ctx.backfill("{collection}", {"$set": {"flag": True}}, where={"flag": {"$exists": False}})'),
    Rule("MM004", "All documents are in memory at once", checks.all_in_memory,
         "Read in batches, or let the server do the work.",
         "while batch := list(db.{collection}.find(TO_DO).limit(1_000)):\n"
         '    db.{collection}.bulk_write([UpdateOne({"_id": d["_id"]}, change(d)) for d in batch])'),
    Rule("MM005", "One write per document in a loop", checks.writes_in_loop,
         "Change the documents on the server in one statement, or send the writes in batches.",
         'db.{collection}.update_many(TO_DO, [{"$set": {"email": {"$toLower": "$email"}}}])\n'
         'ctx.backfill("{collection}", change, where=TO_DO)'),
    Rule("MM006", "A transaction cannot do this", checks.refused_in_transaction,
         "Move it to a migration of its own, without `transactional = True`.",
         'idempotent = True\n\n\ndef up(db):\n    db.{collection}.create_index("email")', _ERROR),
    Rule("MM007", "A unique index without a check for duplicates", checks.unchecked_unique_index,
         "Search for duplicates first, and stop with a message that names them.",
         "twice = db.{collection}.aggregate(\n"
         '    [{"$group": {"_id": "$email", "n": {"$sum": 1}}}, {"$match": {"n": {"$gt": 1}}}, {"$limit": 5}]\n'
         ")\n"
         'if found := [each["_id"] for each in twice]:\n'
         '    raise ValueError(f"Used more than once: {found}")'),
    Rule("MM008", "Data is deleted without a copy", checks.lost_data,
         "Keep a copy until nobody needs it: rename instead of dropping, or copy first.",
         'db.{collection}.aggregate([{"$out": "{collection}_before"}])\n'
         'db.{collection}.update_many({"old": {"$exists": True}}, {"$rename": {"old": "old_before"}})'),
    Rule("MM009", "The migration starts a transaction itself", checks.manual_transaction,
         "Let the runner start it: then the data and the record are committed together.",
         "transactional = True"),
    Rule("MM010", "A statement without the session of its transaction", checks.missing_session,
         "Pass the session. It is better to let the runner start the transaction: then no statement needs a session.",
         "db.{collection}.update_many(TO_DO, CHANGE, session=session)", _ERROR),
    Rule("MM011", "The migration creates a client", checks.own_client,
         "Use the database that up() gets, or another database of its client.",
         'def up(db):\n    other = db.client["reports"]', _ERROR),
    Rule("MM012", "An import of the application's code", checks.application_import,
         "Copy the code into the migration, with the names of collections and fields of today. "
         "`ctx.app` is the application.",
         'STATES = {"new": 0, "paid": 1}  # as of 2026-11-22'),
    Rule("MM013", "Work during the import of the file", checks.import_time_work,
         "Do it in up(): files are imported before the first migration of a run starts.",
         'def up(db):\n    rows = Path(__file__).with_name("_rows.json").read_text()'),
    Rule("MM015", "Several writes that a crash can separate", checks.several_writes,
         "Make the migration transactional. Or let each write match only documents that still need it, "
         "and declare the migration idempotent.",
         "transactional = True\nidempotent = True  # if running it again does no harm"),
    Rule("MM019", "The migration sleeps", checks.sleep,
         "Work in batches, and let ctx.backfill() set the pace.",
         'ctx.backfill("{collection}", {"$set": {"flag": True}}, where=TO_DO, batch_size=500)'),
    Rule("MM020", "Threads and processes", checks.threads,
         "Let ctx.backfill() distribute the work.",
         'ctx.backfill("{collection}", change, where=TO_DO, workers=4)'),
    Rule("MM021", "Writes that bypass the validator", checks.bypassed_validation,
         "Change the validator first, or write what it accepts.",
         'db.command("collMod", "{collection}", validator=NEW_VALIDATOR)'),
    Rule("MM022", "JavaScript on the server", checks.server_script,
         "Use an expression: it is faster, and works on servers where scripts are disabled.",
         'db.{collection}.count_documents({"$expr": {"$gt": ["$paid", "$price"]}})'),
    Rule("MM023", "A backfill in a transaction", checks.backfill_in_transaction,
         "Remove `transactional`: a backfill resumes where it stopped.",
         'idempotent = True\n\n\ndef up(db, ctx):\n    ctx.backfill("{collection}", CHANGE, where=TO_DO)', _ERROR),
    Rule("MM024", "A caught error that aborts the transaction", checks.caught_in_transaction,
         "Check first instead of catching the error, or use an upsert.",
         'db.{collection}.update_one({"_id": key}, {"$setOnInsert": document}, upsert=True)', _ERROR),
    Rule("MM026", "A harmful write concern", checks.write_concern,
         "Remove it: the runner commits with a majority.",
         "db.{collection}.insert_one(document)", _ERROR),
    Rule("MM027", "A method that pymongo does not have", checks.unknown_method,
         "Use a method of pymongo 4.",
         'db.{collection}.update_many({"flag": {"$exists": False}}, {"$set": {"flag": True}})', _ERROR),
    Rule("MM028", "A change that the driver rejects", checks.invalid_change,
         "Use operators to change fields, and no operators to replace a document.",
         'db.{collection}.update_one({"_id": key}, {"$set": {"flag": True}})\n'
         'db.{collection}.replace_one({"_id": key}, {"flag": True})', _ERROR),
    Rule("MM029", "A TTL index that deletes existing documents", checks.ttl_index,
         "Count the expired documents first. Give those that must stay a new date.",
         'old = db.{collection}.count_documents({"created": {"$lt": LIMIT}})\n'
         'ctx.log.info("The TTL index will delete %d documents", old)'),
    Rule("MM030", "up() is not written", checks.unwritten_up,
         "Write it, or move the file out of the folder.",
         'idempotent = True\n\n\ndef up(db):\n    db.{collection}.create_index("email")', _ERROR),
    Rule(UNEXPLAINED, "A suppression without a rule or a reason", None,
         "Name the rule, and say why it does not apply here.",
         _SUPPRESSION),
    Rule(UNUSED, "A suppression without a finding", None,
         "Delete it, or move it to the line of the finding or the line above.",
         _SUPPRESSION),
)  # fmt: skip
"""Every rule, in the order of the codes."""

BY_CODE = {rule.code: rule for rule in RULES}


def chosen(select: Collection[str], ignore: Collection[str]) -> tuple[Rule, ...]:
    """Choose the selected rules, or all if none is selected, without the ignored ones.

    A removed rule can be ignored, not selected. Raises InvalidRequestError for an unknown code.
    """
    unknown = sorted({*select, *ignore} - BY_CODE.keys() - (REMOVED - {*select}))
    if unknown:
        raise InvalidRequestError(
            f"There is no rule {', '.join(unknown)}. The rules are {', '.join(BY_CODE)}."
        )
    wanted = select or BY_CODE.keys()
    return tuple(rule for rule in RULES if rule.code in wanted and rule.code not in ignore)
