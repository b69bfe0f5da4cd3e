"""Which migrations would run, and in which order.

Exports pure functions that decide from files, history and request, the `Inspector` that reads those, the preview of
`up`, the details of one version, the gate `check`, the mapping of another tool's history, and the checks of `doctor`. Nothing here writes, takes the lock or executes a migration.
"""
