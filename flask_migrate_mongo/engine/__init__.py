"""Runs a plan under the lease and records every step.

Exports `Runner`, `Options` and `Observer`. May use every layer below; knows neither dry runs nor rehearsals.
"""
