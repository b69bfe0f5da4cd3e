"""The tests, by room: unit."""
