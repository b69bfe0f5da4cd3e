"""The tests, by room: integration."""
