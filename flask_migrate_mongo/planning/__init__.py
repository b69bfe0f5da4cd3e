"""Which migrations would run, and in which order.

Exports pure functions that decide from files, history and request, the `Inspector` that reads those, and the
preview of `up`. Nothing here writes, takes the lock or executes a migration.
"""
