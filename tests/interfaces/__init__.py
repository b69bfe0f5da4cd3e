"""The tests, by room: doors."""
