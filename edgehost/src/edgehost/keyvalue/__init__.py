"""Key-value stores: in memory, in SQLite, in Redis."""

from edgehost.keyvalue.memory import MemoryStore
from edgehost.keyvalue.provider import AppStores, ComponentStores
from edgehost.keyvalue.sqlite import SqliteDatabase, SqliteStore

__all__ = ["AppStores", "ComponentStores", "MemoryStore", "SqliteDatabase", "SqliteStore"]
