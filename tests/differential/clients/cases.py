"""Runs cases with the official client in Python; `cases.mjs` says what it reads and writes.

    python cases.py --client auto|legacy --key KEY
"""

import argparse
import asyncio
import contextlib
import json
import logging
import sys

import httpx2
from mcp import types
from mcp.client import Client
from mcp.client import streamable_http
from mcp.client.streamable_http import streamable_http_client

CALLS_A_CLIENT = 40
AFTER_ANSWER_S = 0.025
GAVE_UP_S = 0.2
streamable_http.DEFAULT_RECONNECTION_DELAY_MS = 20
logging.disable(logging.CRITICAL)
# Errors that the transport makes itself, and those of them behind which the answer may still come another way.
GAVE_UP = ("SSE stream ended", "SSE stream failed")
OWN = (*GAVE_UP, "Failed to parse", "Server returned an error response", "Unexpected content type", "Not Found", "Session terminated")


class Tapped:
    """A stream of messages that shows each to `one` on its way."""

    def __init__(self, inner, one):
        self.inner, self.one = inner, one

    async def receive(self):
        message = await self.inner.receive()
        self.one.hear(message)
        return message

    async def __anext__(self):
        message = await self.inner.__anext__()
        self.one.hear(message)
        return message

    def __aiter__(self):
        return self

    async def __aenter__(self):
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *raised):
        return await self.inner.__aexit__(*raised)

    def __getattr__(self, name):
        return getattr(self.inner, name)


class TappedWrites(Tapped):
    """The other direction: the id of the call is noted."""

    async def send(self, message):
        self.one.told(message)
        await self.inner.send(message)


class One:
    """One connected client, in a task of its own: its context must be left where it was entered."""

    def __init__(self, url, flags):
        self.url, self.flags, self.calls = url, flags, 0
        self.id, self.seen = None, {"result": 0, "error": 0}
        self.own, self.gave_up = False, False
        self.orders, self.ready = asyncio.Queue(), asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self.live())

    def told(self, session_message):
        message = getattr(session_message, "message", None)
        if getattr(message, "method", None) == "tools/call":
            # A question that was answered makes another round: its answers are of another call.
            self.id, self.seen = message.id, {"result": 0, "error": 0}

    def hear(self, session_message):
        message = getattr(session_message, "message", None)
        if self.id is None or str(getattr(message, "id", None)) != str(self.id):
            return
        if isinstance(message, types.JSONRPCResponse):
            self.seen["result"] += 1
        elif isinstance(message, types.JSONRPCError) and message.error.message.startswith(OWN):
            self.own = True
            self.gave_up |= message.error.message.startswith(GAVE_UP)
        elif isinstance(message, types.JSONRPCError):
            self.seen["error"] += 1

    @contextlib.asynccontextmanager
    async def transport(self, http):
        async with streamable_http_client(self.url, http_client=http) as streams:
            yield Tapped(streams[0], self), TappedWrites(streams[1], self)

    async def live(self):
        try:
            async with httpx2.AsyncClient(headers={"x-api-key": self.flags.key}, timeout=30) as http:
                async with Client(self.transport(http), mode=self.flags.client) as client:
                    self.ready.set_result(None)
                    while (order := await self.orders.get()) is not None:
                        order[1].set_result(await self.call(client, order[0]))
        except BaseException as error:  # Whatever a client raises is said, not thrown.
            if not self.ready.done():
                self.ready.set_exception(RuntimeError(repr(error)))
            while not self.orders.empty():
                order = self.orders.get_nowait()
                if order is not None and not order[1].done():
                    order[1].set_result(("nothing", repr(error)))
            if isinstance(error, asyncio.CancelledError):
                raise

    async def call(self, client, order):
        try:
            result = await client.call_tool(order["tool"], {}, read_timeout_seconds=order["timeoutMs"] / 1000)
        except Exception as error:
            refused = self.seen["result"] and not self.own
            saw = "error" if self.seen["error"] else "invalid" if refused else "nothing"
            return saw, repr(error)[:300]
        later = getattr(result, "result_type", None) in ("task", "input_required")
        saw = "tool_error" if result.is_error else "later" if later else "success"
        return saw, result.model_dump_json()[:300]

    async def run(self, order):
        self.id, self.seen = None, {"result": 0, "error": 0}
        self.own, self.gave_up = False, False
        done = asyncio.get_running_loop().create_future()
        await self.orders.put((order, done))
        waiting = asyncio.wait({done, self.task}, timeout=order["timeoutMs"] / 1000 + 2, return_when="FIRST_COMPLETED")
        await waiting
        saw, detail = done.result() if done.done() else ("nothing", "the client ended or hung")
        if self.seen["result"] + self.seen["error"]:
            await asyncio.sleep(AFTER_ANSWER_S)
        if saw == "nothing" and self.gave_up:
            await asyncio.sleep(GAVE_UP_S)
            saw = "gave_up" if self.seen["result"] else saw
        self.calls += 1
        usable = done.done() and not self.task.done() and saw not in ("nothing", "invalid", "gave_up")
        return saw, detail, self.seen["result"] + self.seen["error"], usable and self.calls < CALLS_A_CLIENT


IDLE = {}


async def run(order, flags):
    url, one = order["url"], None
    for _ in range(4):
        with contextlib.suppress(IndexError, KeyError):
            one = IDLE[url].pop()
            break
        one = One(url, flags)
        try:
            await asyncio.wait_for(asyncio.shield(one.ready), 20)
            break
        except Exception as error:
            one.task.cancel()
            one, why = None, repr(error)
            await asyncio.sleep(0.1)
    if one is None:
        told = {"case": order["case"], "saw": "unconnected", "answers": 0, "detail": why}
    else:
        saw, detail, answers, usable = await one.run(order)
        told = {"case": order["case"], "saw": saw, "answers": answers, "detail": detail}
        if usable:
            IDLE.setdefault(url, []).append(one)
        else:
            one.orders.put_nowait(None)
            asyncio.get_running_loop().call_later(3, one.task.cancel)
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


async def main():
    parser = argparse.ArgumentParser()
    for flag in ("client", "key"):
        parser.add_argument(f"--{flag}", required=True)
    flags = parser.parse_args()
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running = set()
    while line := await reader.readline():
        task = asyncio.create_task(run(json.loads(line), flags))
        running.add(task)
        task.add_done_callback(running.discard)


asyncio.run(main())
