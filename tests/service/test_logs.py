"""The log of a real gateway, as a collector would parse it."""

from __future__ import annotations

import asyncio
import json
import time

from tests.service.fleet import RUN, valid_group


async def test_every_line_of_a_gateway_has_what_a_collector_needs(start_gateway):
    gateway = await start_gateway()
    async with gateway.connect() as fleet:
        assert await fleet.outcomes([valid_group(), valid_group(temperature=-1.0)]) == ["ACCEPTED", "REJECTED"]
    gateway.child.terminate()
    assert await asyncio.to_thread(gateway.child.wait, time.monotonic() + 60)
    rows = [json.loads(line) for line in gateway.log().splitlines()]
    assert {(row["process"], row["run"]) for row in rows} == {("gateway", RUN)}
    assert all({"time", "level", "event"} <= row.keys() for row in rows)
    (rejection,) = [row for row in rows if "rejection" in row["event"]]
    assert (rejection["fleet"], rejection["reason"]) == ("alpha", "temperature")
    assert rows[-1]["event"] == "gateway ended"
