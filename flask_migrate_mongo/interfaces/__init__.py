"""The ways in: the command line, the REST API and the start-up hook.

An interface parses, calls and renders; it decides nothing about migrations. May use Click, Flask, marshmallow
and every layer below. It gives every report its `to_dict()`, which the schemas build.
"""

import json
from typing import Any

from werkzeug.utils import import_string

from flask_migrate_mongo.model import documents


def _dump(name: str, value: object) -> dict[str, Any]:
    # Imported here, since few processes use it. Written and read, so that it is what `--json` prints.
    dump = import_string(f"{__name__}.schemas.document")
    document: dict[str, Any] = json.loads(json.dumps(dump(name, value), default=str))
    return document


documents.dump = _dump
