"""Runs a plan under the lease and records every step; settles the history by hand.

Exports `Runner`, `Options` and `Observer`, and the functions of `settling` and `squashing`. May use every layer
below; imports neither dry runs nor rehearsals, which are given a runner.
"""
