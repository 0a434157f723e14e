"""The permissions that Leeway needs as a Redis user: an access control list (ACL) with nothing beyond them.

    ACL SETUSER leeway on >PASSWORD resetkeys ~leeway:* resetchannels -@all +get +set ...

``rule`` returns the arguments of that command. Redis checks commands that scripts call like direct ones, so they are listed
too. No command here reads other users' keys, changes the server or its configuration, or flushes anything; AUTH needs no
permission.
"""

from __future__ import annotations

KEY_PATTERN = "~leeway:*"

COMMANDS = (
    # connections; INFO has the run_id, by which a restart is noticed
    *("ping", "select", "info", "time"),
    # scripts
    *("eval", "evalsha", "script|load"),
    # several commands at once, all or none; each of them needs its own permission
    *("multi", "exec", "discard"),
    # strings and keys
    *("get", "set", "del", "exists", "persist", "incr", "strlen", "expire", "mget"),
    # sets and hashes
    *("sadd", "scard", "smembers", "srem", "hdel", "hexists", "hget", "hgetall", "hincrby", "hlen", "hmget", "hset"),
    "hvals",
    # lists
    *("lpush", "llen", "lindex", "lrange", "lrem", "lset", "ltrim", "rpush"),
    # sorted sets
    *("zadd", "zrangebyscore", "zrem", "zscore"),
    # streams
    *("xack", "xadd", "xautoclaim", "xdel", "xgroup", "xinfo", "xlen", "xpending", "xrange", "xread", "xreadgroup"),
    *("xrevrange", "xtrim"),
    # recounts and backups
    *("hscan", "scan", "ttl", "type", "zrange"),
)


def rule(user: str, *passwords: str) -> list[str]:
    """Returns the arguments of ``ACL SETUSER`` that create ``user``, or reset it, with exactly these permissions.

    Several passwords are valid at the same time, as while one is being rotated.
    """
    permissions = [f"+{command}" for command in COMMANDS]
    given = [f">{password}" for password in passwords]
    return [user, "reset", "on", *given, KEY_PATTERN, "resetchannels", "-@all", *permissions]
