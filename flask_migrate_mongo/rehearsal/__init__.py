"""Rehearses migrations: up, down and up again, for real, on samples in a scratch database."""

from .estimation import Estimate
from .performing import SAMPLE, Audience, Performance, Rehearsal, RehearsalReport, Request, Turn

__all__ = [
    "SAMPLE",
    "Audience",
    "Estimate",
    "Performance",
    "Rehearsal",
    "RehearsalReport",
    "Request",
    "Turn",
]
