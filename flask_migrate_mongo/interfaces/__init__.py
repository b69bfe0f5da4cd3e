"""The ways in: the command line, the REST API and the start-up hook.

An interface parses, calls and renders; it decides nothing about migrations. May use Click, Flask, marshmallow
and every layer below.
"""
