"""What is kept in the database: records, the lease, and asynchronous runs.

Exports `MigrationHistory`, `Lease` and `RunStore`. They speak of runs and records, never of queries. May use
pymongo through the driver folder.
"""
