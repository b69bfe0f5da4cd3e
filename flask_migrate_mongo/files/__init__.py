"""Migration files: found, parsed, imported and called.

`folder` finds them and keeps the name of the newest, `parsing` describes one, `identity` computes the digest of its
code, `loading` imports one, as a module of `packages`, and calls its functions, `scaffold` creates and renumbers, and
`joining` makes one source of several, with the `names` in them. May use the file system and no database.
"""
