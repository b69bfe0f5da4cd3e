# SPDX-License-Identifier: GPL-2.0-only
"""The SecantusDB daemon, brought closer to mongod where our tests would see the difference.

    python strict_server.py --port P --storage-path DIR [any flag of the daemon]

STRICT_TXN_LIFETIME is mongod's transactionLifetimeLimitSeconds (default 60), STRICT_MAJORITY_MS
how long a majority takes (default 2), STRICT_TRANSACTIONS=0 leaves transactions out, as FerretDB
does, STRICT_NEWER=1 adds what later servers and Atlas have, and STRICT_SHARDED=1 answers as mongos does.

This file imports SecantusDB, which is licensed under GPL-2.0-only, and so is under that licence
itself. It is run as a process of its own, imported by nothing and not part of the wheel. Each
correction asserts that what it corrects is still there.
"""

from __future__ import annotations

import importlib
import sys

from secantus.cli import main

CORRECTIONS = (
    "dates",
    "operations",
    "elections",
    "indexes",
    "builds",
    "collections",
    "writes",
    "transactions",
    "newer",
    "sharded",
    "rights",
)
"""The modules of `corrections`; where two answer to one command, the later one sees it first."""

if __name__ == "__main__":
    for name in CORRECTIONS:
        importlib.import_module(f"corrections.{name}")
    sys.exit(main())
