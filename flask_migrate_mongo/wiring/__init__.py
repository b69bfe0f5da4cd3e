"""Makes the objects that do the work from the state of an application.

Exports functions that take an `AppState`: `looking` for what needs no run, `running` for runs, dry runs and
rehearsals, `linting`, `creating`, and `examining` for the facts that `doctor` checks. An interface imports the module
that it needs, so that a look loads no engine. May use the settings, the database and every layer below.
"""
