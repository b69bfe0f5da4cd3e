"""Migration files: found, parsed, imported and called.

Exports `Folder` and `Discovery`; `describe`, `parse` and `read_content` for one file; `load`, `call` and
`PortableFunction` for its functions; `suppressions_in` its text. May use the file system and no database. Every command imports
this folder, so `Scaffold` is not exported here: the commands that create a file import it from `files.scaffold`.
"""

from .folder import Discovery, Folder
from .loading import PortableFunction, call, load
from .parsing import checksum, describe, parse, read_content, suppressions_in

__all__ = [
    "Discovery",
    "Folder",
    "PortableFunction",
    "call",
    "checksum",
    "describe",
    "load",
    "parse",
    "read_content",
    "suppressions_in",
]
