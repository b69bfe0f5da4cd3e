"""Runs a plan under the lease and records every step; settles the history by hand.

Exports `Runner`, `Options` and `Observer`, and the functions of `settling` and `squashing`. May use every layer
below; imports neither dry runs nor rehearsals, which are given a runner.

`Runner.run` plans without the lock, and returns if nothing is to do. `_run_leased` takes the lock, settles what crashed runs
left (`settle`), plans again if the history has changed, and imports all files (`load`). `LeasedRun.execute` then calls
`_run_step` for each step: `_record_start` marks the record as running, `_run_plain` or `_run_in_transaction` calls the
function and records its success, and `_record_failure` records what it raised.
"""
