"""The dashboard: pages for browsers on the documents of the REST API, in the same blueprint.

A page shows nothing that the API does not answer: its view builds the same documents, and its template shows them. The
pages exist where `MIGRATE_DASHBOARD` asks for them; their table is `PAGES` in `rest/routes.py`. May use Flask, Jinja, the
REST API and every layer below.
"""
