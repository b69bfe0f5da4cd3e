"""What an application declares about its collections, compared with its database.

Exports `Collection`, `Index` and `SearchIndex`, and what makes them from other declarations: `json_schema` of a Pydantic model, and
`from_mongoengine` of mongoengine's documents. `identity` has the server's own rule for equal indexes. Comparing and
writing are pure; `live` and `counting` read, and change nothing. May touch pymongo, the driver and the model.
"""

from .adapters import from_mongoengine, json_schema
from .declared import Collection, Index
from .search import SearchIndex

__all__ = ["Collection", "Index", "SearchIndex", "from_mongoengine", "json_schema"]
