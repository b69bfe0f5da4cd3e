"""Watches the commands of a process that a test starts: Python imports this module at its start."""

import os

if os.environ.get("CONFORMANCE_FOLDER"):
    from tests.server import conformance

    conformance.watch()
