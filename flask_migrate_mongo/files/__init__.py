"""Migration files: found, parsed, imported and called.

`folder` finds them, `parsing` describes one, `loading` imports one and calls its functions, `scaffold` creates one.
May use the file system and no database.
"""
