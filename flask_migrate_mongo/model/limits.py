"""Limits that several folders use."""

from __future__ import annotations

DRY_RUN_SECONDS = 30.0
"""Default limit of a dry run: half of the time that a server allows a transaction, which is 60 s by default."""

LONGEST_DRY_RUN = 3600.0
"""Seconds: for servers that are configured to allow longer transactions."""

SAMPLES = 2
"""Default number of documents that a dry run shows of each step, before and after."""

MOST_SAMPLES = 20
