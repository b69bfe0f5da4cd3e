"""Migration files: found, read from their syntax tree, imported, and created.

Exports `Folder`, `Discovery`, `Scaffold` and what loads and calls `up()` and `down()`. May use the file system;
it never touches a database.
"""
