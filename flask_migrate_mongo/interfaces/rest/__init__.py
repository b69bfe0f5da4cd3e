"""The REST API: views, access rules, and the schemas of requests.

Exports the blueprint. May use Flask, marshmallow, webargs and apispec.
"""
