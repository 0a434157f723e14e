"""What Leeway's user needs in a Redis of its own access control list, and nothing else.

    ACL SETUSER leeway on >PASSWORD resetkeys ~leeway:* resetchannels -@all +get +set ...

``rule`` writes that line. Commands that scripts call are checked like direct ones, so they are listed too. No command here
reads keys of others, changes the server or its configuration, or flushes anything; AUTH needs no permission.
"""

from __future__ import annotations

KEY_PATTERN = "~leeway:*"

COMMANDS = (
    # connections, and the server's own name for its life (a restart is noticed by it)
    *("ping", "select", "info", "time"),
    # scripts
    *("eval", "evalsha", "script|load"),
    # strings and keys
    *("get", "set", "del", "exists", "persist", "incr", "strlen", "expire", "mget"),
    # sets and hashes
    *("sadd", "scard", "smembers", "srem", "hdel", "hexists", "hget", "hgetall", "hincrby", "hlen", "hmget", "hset"),
    "hvals",
    # lists
    *("lpush", "llen", "lindex", "lrange", "lrem", "lset", "ltrim", "rpush"),
    # sorted sets
    *("zadd", "zrangebyscore", "zrem"),
    # streams
    *("xack", "xadd", "xautoclaim", "xdel", "xgroup", "xinfo", "xlen", "xpending", "xrange", "xread", "xreadgroup"),
    *("xrevrange", "xtrim"),
    # recounts
    *("scan", "ttl", "zrange"),
)


def rule(user: str, password: str) -> list[str]:
    """The arguments of ``ACL SETUSER`` that make ``user``, with everything it had before taken away."""
    permissions = [f"+{command}" for command in COMMANDS]
    return [user, "reset", "on", f">{password}", KEY_PATTERN, "resetchannels", "-@all", *permissions]
