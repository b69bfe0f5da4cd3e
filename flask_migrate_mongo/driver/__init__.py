"""What the server is, and how pymongo is used.

Exports the `Server` of a database with the types of its documents and the translation of its errors,
transactions, the confinement of a migration's code in its transaction, listeners that see and refuse
commands, and spans. May use OpenTelemetry where it is installed, and pymongo, including the private names in docs/compatibility.md; knows no migrations.
"""
