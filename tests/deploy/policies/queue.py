"""Policy on Redis: nothing that was accepted is lost or evicted, and users may do only what they must."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from learner.config import GatewayConfig
from learner.queue.acl import COMMANDS, KEY_PATTERN
from tests.deploy.manifests import Object
from tests.deploy.policies.processes import mounted, of_kind, processes
from tests.deploy.workloads import Pod, named, pods, quantity

_NEEDED = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "aof-load-truncated": "yes"}
_PASSES = 3  # the append-only file before a rewrite, at twice its size, and what the rewrite makes
_UNITS = {"mb": 1 << 20, "gb": 1 << 30}


def queue(objects: list[Object]) -> list[str]:
    """Checks for a synced append-only file, no eviction, memory above the backlog, and users with minimal rights."""
    found, _ = processes(objects)
    backlog = max((config.admission.max_queued_bytes for _, config in of_kind(found, GatewayConfig)), default=0)
    return [
        f"{pod.where}: {line}"
        for pod in pods(objects)
        if pod.component == "redis"
        for line in _redis(pod, objects, backlog)
    ]


def _redis(pod: Pod, objects: list[Object], backlog: int) -> Iterator[str]:
    server = pod.container("redis")
    config = configuration(pod, server, Path(server["command"][1]), objects)
    arguments = server.get("args", [])
    config |= {flag.removeprefix("--"): value for flag, value in zip(arguments[::2], arguments[1::2], strict=True)}
    for key, value in _NEEDED.items():
        if config.get(key) != value:
            yield f"{key} is {config.get(key)}, not {value}"
    port = config.get("tls-port") or config.get("port")
    if port != str(pod.ports()["redis"]) or (config.get("tls-port") and config.get("port") != "0"):
        yield f"listens on {port}, its port is {pod.ports()['redis']}, and in plain text on {config.get('port')}"
    if config.get("tls-port") and config.get("tls-auth-clients") != "yes":
        yield "does not ask its clients for certificates"
    room = int(config["maxmemory"][:-2]) * _UNITS[config["maxmemory"][-2:]]
    if not backlog < room < quantity(server["resources"]["limits"]["memory"]):
        yield f"maxmemory = {room} is not between the backlog's {backlog} and the container's limit"
    if config.get("auto-aof-rewrite-percentage") != "100":
        yield f"auto-aof-rewrite-percentage is {config.get('auto-aof-rewrite-percentage')}, not 100: its file has no bound"
    disk = min(
        (
            quantity(claim["spec"]["resources"]["requests"]["storage"])
            for claim in pod.owner["spec"]["volumeClaimTemplates"]
        ),
        default=0,
    )
    if disk < _PASSES * room:
        yield f"its volume has {disk} bytes; the append-only file may take {_PASSES} times maxmemory = {_PASSES * room}"
    if not pod.claims & {mount["name"] for mount in server["volumeMounts"] if mount["mountPath"] == config["dir"]}:
        yield f"its file in {config['dir']} is on no volume of its own"
    yield from _users(pod, objects)


def configuration(pod: Pod, server: Object, file: Path, objects: list[Object]) -> dict[str, str]:
    """Returns directive -> value of a redis.conf and the files it includes; the last line of a directive counts."""
    values: dict[str, str] = {}
    for line in mounted(pod, server, file, objects).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["include"]:
            values |= configuration(pod, server, Path(words[1]), objects)
        elif words:
            values[words[0]] = " ".join(words[1:])
    return values


def passwords(volume: Object) -> set[str]:
    """Returns the users that a volume has passwords of, without those of a rotation."""
    sources = [source["secret"] for source in volume["projected"]["sources"]]
    return {item["path"] for secret in sources if not secret.get("optional") for item in secret["items"]}


def _users(pod: Pod, objects: list[Object]) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
    rules = named(objects, "ConfigMap")[volumes["users"]["configMap"]["name"]]["data"]
    given = passwords(volumes["passwords"])
    if not any("optional" in source["secret"] for source in volumes["passwords"]["projected"]["sources"]):
        yield "the passwords have no second one: it cannot be rotated without a restart"
    for user in sorted(set(rules) ^ given):
        yield f"user {user} has rules and no password, or a password and no rules"
    least = [KEY_PATTERN, "resetchannels", "-@all", *(f"+{command}" for command in COMMANDS)]
    if rules["leeway"].split() != least:
        yield "the rules of user leeway are not those of learner/queue/acl.py"
    for word in rules.get("exporter", "").split():
        if word.startswith("+@") or word in ("+get", "+keys", "+flushall", "+config"):
            yield f"the exporter may {word}"
