"""What is kept in the database: records, the lease, and asynchronous runs.

Exports `MigrationHistory` with `Claim`, `Run` and `Adoption`, `Lease` and `RunStore`. They speak of runs and records, never of queries. `foreign` reads
the collections of other migration tools, and `bounds` shortens what is stored of a run. May use pymongo through the driver folder.
"""
