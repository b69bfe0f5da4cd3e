"""What each setting is for, as the docstring below its field says."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise

from flask_migrate_mongo.settings import Settings


def purposes() -> dict[str, str]:
    """Read the docstrings of the fields, by the fields' names."""
    (table,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(table, ast.ClassDef)
    return {
        field.target.id: ast.literal_eval(below.value)
        for field, below in pairwise(table.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
    }
