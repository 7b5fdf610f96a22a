"""A store in Redis, in the form of Spin's own: both can use one database.

Keys are used as they are, without prefix or label, so every label with one URL is one store.
Counters are decimal text, as ``INCRBY`` has them; compare-and-swap is a script, which the server
runs as one step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from edgehost.errors import StoreError
from edgehost.keyvalue.limits import AnswerSize, check_entry, check_key

__all__ = ["RedisStore"]

_CONNECT_TIMEOUT_S = 2.0
_CALL_TIMEOUT_S = 5.0
# As many guests as call at one time; the next one waits for a connection, up to the call timeout.
_MAX_CONNECTIONS = 32
_SCAN_BATCH = 1_000

# ARGV: "1" and the expected value, or "0" and nothing; then the new value.
_SWAP = """
local current = redis.call('GET', KEYS[1])
if ARGV[1] == '1' then
    if current ~= ARGV[2] then return 0 end
elseif current then
    return 0
end
redis.call('SET', KEYS[1], ARGV[3])
return 1
"""

_P = ParamSpec("_P")


class RedisStore:
    """All entries of a Redis database; a `Store`."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float = _CONNECT_TIMEOUT_S,
        call_timeout_s: float = _CALL_TIMEOUT_S,
        max_connections: int = _MAX_CONNECTIONS,
    ) -> None:
        """Use the database at `url`; nothing is connected before the first call."""
        parts = urlsplit(url)
        self._address = parts.netloc.rpartition("@")[2] or parts.path
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            timeout=call_timeout_s,
            socket_connect_timeout=connect_timeout_s,
            socket_timeout=call_timeout_s,
            # The client would repeat a lost INCRBY, which may have been done: repeat here,
            # where it is known what may be repeated.
            retry=Retry(NoBackoff(), 0),
        )
        self._client: redis.Redis = redis.Redis(connection_pool=pool)
        self._connect_timeout_s = connect_timeout_s
        self._swap_sha = ""

    def get(self, key: str) -> bytes | None:
        """The value, or None when absent."""
        check_key(key)
        return cast("bytes | None", self._repeatable(self._client.get, key))

    def set(self, key: str, value: bytes) -> None:
        """Store `value`, replacing what was there."""
        check_entry(key, value)
        self._repeatable(self._client.set, key, value)

    def delete(self, key: str) -> None:
        """Remove `key`; absent is fine."""
        check_key(key)
        self._repeatable(self._client.delete, key)

    def exists(self, key: str) -> bool:
        """True when `key` holds a value."""
        check_key(key)
        return bool(self._repeatable(self._client.exists, key))

    def get_keys(self) -> list[str]:
        """Every key that is text. Others cannot be named by a guest, and are left out."""
        size = AnswerSize()
        found: dict[str, None] = {}
        cursor = 0
        while True:  # SCAN does not block the server as KEYS does, but may repeat a key
            cursor, batch = self._repeatable(self._client.scan, cursor, count=_SCAN_BATCH)
            for raw in batch:
                with contextlib.suppress(UnicodeDecodeError):
                    key = raw.decode()
                    if key not in found:
                        size.add((key,))
                        found[key] = None
            if cursor == 0:
                return list(found)

    def get_many(self, keys: Sequence[str]) -> list[tuple[str, bytes | None]]:
        """Values in the order of `keys`, of one moment."""
        if not keys:
            return []
        for key in keys:
            check_key(key)
        values = self._repeatable(self._client.mget, list(keys))
        found = list(zip(keys, values, strict=True))
        size = AnswerSize()
        for entry in found:
            size.add(entry)
        return found

    def set_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Store all items at once."""
        if not items:
            return
        for key, value in items:
            check_entry(key, value)
        self._repeatable(self._client.mset, dict(items))

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove all keys at once; absent ones are fine."""
        if not keys:
            return
        for key in keys:
            check_key(key)
        self._repeatable(self._client.delete, *keys)

    def increment(self, key: str, delta: int) -> int:
        """Add `delta` to the counter at `key` (absent counts as 0) atomically; the new value."""
        check_key(key)
        return int(self._once(self._client.incrby, key, delta))

    def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        """Set `key` when it still holds `expected` (None: absent); True when set."""
        check_entry(key, value)
        given = ("0", b"") if expected is None else ("1", expected)
        return bool(self._once(self._swap, key, *given, value))

    def _swap(self, key: str, *arguments: str | bytes) -> Any:
        try:
            if self._swap_sha:
                return self._client.evalsha(self._swap_sha, 1, key, *arguments)
        except NoScriptError:
            pass  # the server was restarted, or told to forget its scripts
        self._swap_sha = str(self._client.script_load(_SWAP))
        return self._client.evalsha(self._swap_sha, 1, key, *arguments)

    def close(self) -> None:
        """Close every connection."""
        with contextlib.suppress(RedisError, OSError):
            self._client.close()
            self._client.connection_pool.disconnect()

    def _repeatable(self, call: Callable[_P, Any], *args: _P.args, **kwargs: _P.kwargs) -> Any:
        """Make a call that may be done twice: once more when the connection was lost at once."""
        started = time.monotonic()
        try:
            return call(*args, **kwargs)
        except RedisConnectionError as exc:
            if time.monotonic() - started > self._connect_timeout_s:
                raise self._failed(exc) from exc  # the time for one call is used up
            return self._once(call, *args, **kwargs)
        except (RedisError, OSError) as exc:
            raise self._failed(exc) from exc

    def _once(self, call: Callable[_P, Any], *args: _P.args, **kwargs: _P.kwargs) -> Any:
        try:
            return call(*args, **kwargs)
        except (RedisError, OSError) as exc:
            raise self._failed(exc) from exc

    def _failed(self, exc: Exception) -> StoreError:
        if isinstance(exc, ResponseError):
            return StoreError(f"Redis at {self._address}: {exc}")
        if isinstance(exc, RedisTimeoutError):
            return StoreError(f"Redis at {self._address} did not answer in time")
        return StoreError(f"Redis at {self._address} cannot be reached: {exc}")
