"""What the server is, and how pymongo is used.

Exports the `Server` of a database with the types of its documents and the translation of its errors,
transactions, the confinement of a migration's code in its transaction, and listeners that see and refuse
commands. May use pymongo, including the private names in docs/compatibility.md; knows no migrations.
"""

from .commands import BY_FULL_NAME, Command, namespaces, read_by, written_by
from .confinement import Confinement, check_confinement_support, confined
from .listener import (
    CommandListener,
    check_listener_support,
    listening,
    listening_everywhere,
    outside_transaction,
    without_listeners,
)
from .mongomock import server_of
from .server import Document, DocumentView, Replies, Server, Update, is_passing, translated
from .transactions import Transactions, is_transient, transaction

__all__ = [
    "BY_FULL_NAME",
    "Command",
    "CommandListener",
    "Confinement",
    "Document",
    "DocumentView",
    "Replies",
    "Server",
    "Transactions",
    "Update",
    "check_confinement_support",
    "check_listener_support",
    "confined",
    "is_passing",
    "is_transient",
    "listening",
    "listening_everywhere",
    "namespaces",
    "outside_transaction",
    "read_by",
    "server_of",
    "transaction",
    "translated",
    "without_listeners",
    "written_by",
]
