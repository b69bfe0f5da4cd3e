"""Races, kills, pauses and faults: a short form in every test run, a long one by `make chaos`."""
