"""The server that the tests run against."""
