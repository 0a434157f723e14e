"""The two peers of a rollout worker as unit tests need them: a gateway and an SGLang server, both scripted, over real TCP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import grpc
import grpc.aio
from aiohttp import web

from leeway.v1 import rollout_pb2 as pb
from leeway.v1 import rollout_pb2_grpc

TOKEN = "secret"


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Waits for a condition. Raises AssertionError at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        await asyncio.sleep(0.01)


class ScriptedGateway(rollout_pb2_grpc.RolloutServiceServicer):
    """A gateway that answers each group with ``decide(group)``; None means no ack, ever.

    ``break_after`` ends a stream after that many groups.
    """

    def __init__(self) -> None:
        self.decide: Callable[[pb.Group], pb.Ack | None] = lambda _: pb.Ack(outcome=pb.OUTCOME_ACCEPTED)
        self.break_after: int | None = None
        self.received: list[pb.SubmitRequest] = []
        self.streams = 0
        self.leases: list[pb.LeaseRequest] = []
        self.renewals: list[pb.LeaseRequest] = []
        self.fetching: list[int] = []  # versions that were reported as being fetched
        self.lost: set[str] = set()  # leases that are not renewed
        self.grant = 1
        self.granted = 0  # groups, over all leases
        self.policies: list[pb.Policy] = []
        self.known: list[int | None] = []
        self.finished = False
        self.run = pb.DescribeRunResponse(
            run="unit", vocab_size=16, min_group_size=1, max_group_size=128, max_temperature=10.0,
            max_prompt_tokens=1 << 15, max_response_tokens=1 << 16, max_response_context_tokens=1 << 14,
            max_message_bytes=16 << 20, takes_truncated_sampling=True,
        )  # fmt: skip
        self.described = 0  # calls of DescribeRun
        self.refusing: list[tuple[grpc.StatusCode, tuple[tuple[str, str], ...]]] = []  # how the next ones of these end
        self.unacked = 0
        self._server: grpc.aio.Server | None = None
        self._news = asyncio.Event()
        self.port = 0

    async def start(self, **options: int) -> Self:
        """Listens on a free port, or again on the one it had."""
        pairs = [("grpc.so_reuseport", 0), *((f"grpc.{name}", value) for name, value in options.items())]
        self._server = grpc.aio.server(options=pairs)
        rollout_pb2_grpc.add_RolloutServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()
        return self

    async def stop(self) -> None:
        assert self._server is not None
        await self._server.stop(None)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def finish(self) -> None:
        """Tells every watcher that the run has finished."""
        self.finished = True
        self._news.set()

    def publish(self, policy: pb.Policy) -> None:
        self.policies.append(policy)
        self._news.set()

    async def Submit(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.SubmitResponse]:
        await self._authenticate(context)
        self.streams += 1
        count = 0
        requests = (each async for message in request_iterator for each in (message, *message.more))
        async for request in requests:
            self.received.append(request)
            self.unacked += 1
            count += 1
            if self.break_after is not None and count >= self.break_after:
                self.break_after = None
                await context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
            ack = self.decide(request.group)
            if ack is not None:
                self.unacked -= 1
                ack.sequence, ack.group_id = request.sequence, request.group.group_id
                yield pb.SubmitResponse(acks=[ack])

    async def Lease(self, request: pb.LeaseRequest, context: Any) -> pb.LeaseResponse:
        await self._authenticate(context)
        if request.held_lease_ids:
            self.renewals.append(request)
            return pb.LeaseResponse(
                expires_in_ms=1000, lost_lease_ids=[one for one in request.held_lease_ids if one in self.lost]
            )
        if request.HasField("fetching_version"):
            self.fetching.append(request.fetching_version)
            return pb.LeaseResponse()
        self.leases.append(request)
        groups = min(self.grant, request.groups)
        self.granted += groups
        if not groups:
            return pb.LeaseResponse(retry_after_ms=20)
        return pb.LeaseResponse(lease_id=f"lease-{len(self.leases)}", groups=groups, expires_in_ms=1000)

    async def WatchPolicy(self, request: pb.WatchPolicyRequest, context: Any) -> AsyncIterator[pb.WatchPolicyResponse]:
        await self._authenticate(context)
        known = request.known_version if request.HasField("known_version") else None
        self.known.append(known)
        while True:
            self._news.clear()
            newest = max(self.policies, key=lambda policy: policy.version, default=None)
            if newest is not None and (known is None or newest.version > known):
                known = newest.version
                yield pb.WatchPolicyResponse(policy=newest)
            if self.finished:
                yield pb.WatchPolicyResponse(finished=True)
                return
            await self._news.wait()

    async def DescribeRun(self, request: pb.DescribeRunRequest, context: Any) -> pb.DescribeRunResponse:
        await self._authenticate(context)
        self.described += 1
        if self.refusing:
            code, trailing = self.refusing.pop(0)
            await context.abort(code, "not now", trailing)
        return self.run

    async def GetLedger(self, request: pb.GetLedgerRequest, context: Any) -> pb.GetLedgerResponse:
        await self._authenticate(context)
        return pb.GetLedgerResponse(ledger=pb.Ledger(fleet="unit", received=len(self.received)))

    async def _authenticate(self, context: Any) -> None:
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")


class ScriptedEngine:
    """The part of SGLang's HTTP API that a worker uses. ``answer`` makes the tokens of one prompt, ``finish`` its end.

    Attributes:
        calls: paths in the order they were called, without probes.
        version: the label of its weights; "default" until a refit.
        status: HTTP status of every /generate; with 0 it never answers.
        health: HTTP status of /health; with 0 it never answers.
        probes: number of calls of /health.
        reply: called with the body of each /generate; what it returns is the answer, unless that is None.
        info: what /server_info says; None: it is not there.
        may_load: a refit waits for it.
        model: what /model_info says of its model.
        piece: tokens in each piece of a streamed response.
        cumulative: each piece has all tokens so far, as a server has it that was not told otherwise.
        step: awaited after each piece, with the body of the request and the number of tokens sent; what it returns ends the
            response: a finish_reason, or True for a connection that breaks.
        aborted: ids of the requests that were aborted.
        loads: what /v1/loads says of its ranks; None: it is not there.
        key: what every request but /health must present; empty: nothing.
        lora: names and paths of the adapters that are loaded; None: it was started without LoRA.
        unloaded: names of those that were unloaded.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.version = "default"
        self.status = 200
        self.health = 200
        self.probes = 0
        self.reply: Callable[[dict[str, Any]], web.Response | None] = lambda _: None
        self.info: dict[str, Any] | None = None
        self.model: dict[str, Any] = {}
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.piece = 1
        self.cumulative = False
        self.step: Callable[[dict[str, Any], int], Awaitable[dict[str, Any] | bool]] = _go_on
        self.aborted: list[str] = []
        self.loads: list[dict[str, Any]] | None = None
        self.key = ""
        self.lora: dict[str, str] | None = None
        self.unloaded: list[str] = []
        self.update_status = 200
        self.answer: Callable[[list[int]], list[int]] = lambda _: [1, 12]
        self.spans: list[dict[str, Any]] | None = None
        self.finish: Callable[[list[int]], dict[str, Any]] = lambda _: {"type": "stop"}
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> ScriptedEngine:
        """Listens on a free port, or again on the one it had; holds the initial weights."""
        self.version = "default"
        self.lora = None if self.lora is None else {}
        app = web.Application(middlewares=[self._only_with_key])
        app.router.add_get("/model_info", self._model_info)
        app.router.add_get("/health", self._health)
        app.router.add_get("/server_info", self._server_info)
        app.router.add_get("/v1/loads", self._loads)
        app.router.add_post("/generate", self._generate)
        app.router.add_post("/abort_request", self._abort)
        app.router.add_post("/update_weights_from_disk", self._update)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/load_lora_adapter", self._load_adapter)
        app.router.add_post("/unload_lora_adapter", self._unload_adapter)
        for name in ("pause_generation", "continue_generation"):
            app.router.add_post(f"/{name}", self._control)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @web.middleware
    async def _only_with_key(self, request: web.Request, handler: Any) -> web.StreamResponse:
        presented = request.headers.get("Authorization", "")
        if self.key and not request.path.startswith("/health") and presented != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def _model_info(self, _: web.Request) -> web.Response:
        return web.json_response({"weight_version": self.version, **self.model})

    async def _health(self, _: web.Request) -> web.Response:
        self.probes += 1
        if self.health == 0:
            await asyncio.sleep(3600)
        return web.Response(status=self.health)

    async def _server_info(self, _: web.Request) -> web.Response:
        return web.json_response(self.info, status=404 if self.info is None else 200)

    async def _control(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        return web.json_response({"status": "ok"})

    async def _update(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        self.bodies.append(await request.json())
        await self.may_load.wait()
        if self.update_status == 200:
            self.version = self.bodies[-1]["weight_version"]
        return web.json_response({"success": self.update_status == 200}, status=self.update_status)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in ("model", *(self.lora or ()))]})

    async def _load_adapter(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        body = await request.json()
        if self.lora is None or body["lora_name"] in self.lora:
            why = "LoRA is not enabled" if self.lora is None else "it is already loaded"
            return web.json_response({"success": False, "error_message": why}, status=400)
        self.lora[body["lora_name"]] = body["lora_path"]
        return web.json_response({"success": True})

    async def _unload_adapter(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        self.unloaded.append(name)
        return web.json_response({"success": bool((self.lora or {}).pop(name, None))})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(request.path)
        body = await request.json()
        self.bodies.append(body)
        if body.get("lora_path") not in (None, *(self.lora or ())):
            return web.json_response({"error": f"never been loaded: {body['lora_path']}"}, status=400)
        if (reply := self.reply(body)) is not None:
            return reply
        if self.status == 0:
            await asyncio.sleep(3600)
        if self.status != 200:
            return web.json_response({"error": "scripted"}, status=self.status)
        if body.get("stream"):
            return await self._stream(request, body)
        results = []
        for prompt in body["input_ids"]:
            tokens = self.answer(prompt)
            spans = self.spans or [{"version": self.version, "start": 0, "end": len(tokens)}]
            meta = {"finish_reason": self.finish(prompt), "weight_version": self.version, "weight_versions": spans}
            results.append({"output_ids": tokens, "meta_info": meta})
        return web.json_response(results)

    async def _loads(self, _: web.Request) -> web.Response:
        return web.json_response({"loads": self.loads}, status=404 if self.loads is None else 200)

    async def _abort(self, request: web.Request) -> web.Response:
        self.aborted.append((await request.json())["rid"])
        return web.Response()

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Sends the response in pieces, each with the label of the weights that it has then."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        prompt = body["input_ids"]
        tokens = self.answer(prompt)[: body["sampling_params"]["max_new_tokens"]]
        labels: list[str] = []
        while True:
            labels += [self.version] * len(tokens[len(labels) : len(labels) + self.piece])
            sent = len(labels)
            whole = sent == len(tokens)
            await self._send(response, tokens[:sent], labels, self.finish(prompt) if whole else None)
            end = await self.step(body, sent)
            if body["rid"] in self.aborted:
                end = {"type": "abort", "message": "aborted"}
            if isinstance(end, dict) and not whole:
                await self._send(response, tokens[:sent], labels, end)
            if whole or isinstance(end, dict):
                await response.write(b"data: [DONE]\n\n")
                return response
            if end:
                assert request.transport is not None
                request.transport.abort()
                return response

    async def _send(
        self, response: web.StreamResponse, tokens: list[int], labels: list[str], finish: dict[str, Any] | None
    ) -> None:
        meta = {"finish_reason": finish, "completion_tokens": len(tokens), "weight_version": self.version}
        if finish is not None:
            edges = [i for i in range(len(labels)) if not i or labels[i] != labels[i - 1]]
            ranges = zip(edges, [*edges[1:], len(labels)], strict=False)
            meta["weight_versions"] = [{"version": labels[start], "start": start, "end": end} for start, end in ranges]
        ids = tokens if self.cumulative else tokens[-self.piece :]
        event = json.dumps({"output_ids": ids, "meta_info": meta})
        await response.write(f"data: {event}\n\n".encode())


async def _go_on(_: dict[str, Any], __: int) -> bool:
    return False
