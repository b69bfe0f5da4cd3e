"""Names of pymongo's API that lint knows, and what the methods do."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """Split a text into a set of its words."""
    return frozenset(text.split())


COLLECTION_METHODS = words(
    "aggregate aggregate_raw_batches bulk_write count_documents create_index create_indexes"
    " create_search_index create_search_indexes delete_many delete_one distinct drop drop_index"
    " drop_indexes drop_search_index estimated_document_count find find_one find_one_and_delete"
    " find_one_and_replace find_one_and_update find_raw_batches index_information insert_many"
    " insert_one list_indexes list_search_indexes options rename replace_one update_many"
    " update_one update_search_index watch with_options"
)
DATABASE_METHODS = words(
    "aggregate command create_collection cursor_command dereference drop_collection get_collection"
    " list_collection_names list_collections validate_collection watch with_options"
)
CLIENT_METHODS = words(
    "append_metadata bulk_write close drop_database get_database get_default_database"
    " list_database_names list_databases server_info start_session watch"
)
PROPERTIES = words("codec_options full_name name read_concern read_preference write_concern")
"""Attributes of collections and databases that are not collections."""

SAME_CURSOR = words(
    "add_option allow_disk_use batch_size clone collation comment hint max max_time_ms min"
    " remove_option rewind skip sort where"
)
"""Methods of a cursor that return the cursor."""

SINGLE_WRITES = words(
    "delete_one find_one_and_delete find_one_and_replace find_one_and_update insert_one"
    " replace_one update_one"
)
WRITES = SINGLE_WRITES | words("bulk_write delete_many insert_many update_many")
"""Only collections have these methods (a client only `bulk_write`), so a call shows what it is made on."""

INDEX_BUILDS = words("create_index create_indexes")
STRUCTURE_CHANGES = INDEX_BUILDS | words(
    "create_collection drop drop_collection drop_index drop_indexes rename"
)
