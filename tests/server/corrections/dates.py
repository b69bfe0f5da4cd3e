# SPDX-License-Identifier: GPL-2.0-only
"""Dates that Python cannot hold, which mongod stores like any other."""

from __future__ import annotations

import bson
from bson.codec_options import DatetimeConversion

assert bson.DEFAULT_CODEC_OPTIONS.datetime_conversion is DatetimeConversion.DATETIME, (
    "bson decodes dates in another way: look at this correction again"
)
# All of the server decodes with these options.
bson.DEFAULT_CODEC_OPTIONS = bson.DEFAULT_CODEC_OPTIONS.with_options(
    datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
