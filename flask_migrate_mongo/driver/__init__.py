"""What the server is, and how pymongo is used.

Exports `Server` with the translation of its errors, transactions, the confinement of a migration's code in
its transaction, and the listener for commands. May use pymongo; knows nothing of migrations.
"""
