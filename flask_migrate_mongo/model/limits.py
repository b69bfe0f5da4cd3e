"""Bounds that doors and rooms share."""

from __future__ import annotations

DRY_RUN_SECONDS = 30.0
"""How long a dry run lasts unless told otherwise: half of what a server allows a transaction, which is 60 s by default."""

LONGEST_DRY_RUN = 3600.0
"""Seconds: for servers that were told to allow a transaction longer."""

SAMPLES = 2
"""Documents that a dry run shows of each step, before and after, unless told otherwise."""

MOST_SAMPLES = 20
