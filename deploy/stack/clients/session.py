"""One session of the official client in Python; `session.mjs` says what it takes and prints.

    python session.py --client auto|legacy|sse --url URL --key KEY --calls '[["echo",{"message":"hi"}]]'
"""

import argparse
import asyncio
import json

import httpx2
from mcp import types
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

SEEN = {"protocol": None, "tools": [], "results": [], "progress": 0, "asked": 0}


async def sample(_context, _params):
    SEEN["asked"] += 1
    content = types.TextContent(type="text", text="sampled")
    return types.CreateMessageResult(model="none", role="assistant", content=content)


async def elicit(_context, _params):
    SEEN["asked"] += 1
    return types.ElicitResult(action="decline")


async def roots(_context):
    return types.ListRootsResult(roots=[])


async def progress(_done, _total, _words):
    SEEN["progress"] += 1


async def call(client, name, arguments):
    try:
        result = await client.call_tool(name, arguments, progress_callback=progress)
    except Exception as error:  # What a client raises is what is asked here.
        code = getattr(getattr(error, "error", None), "code", None)
        return {"error": code if code is not None else str(error)}
    text = "".join(getattr(part, "text", "") for part in result.content)
    return {"error": text} if result.is_error else {"text": text}


async def main():
    parser = argparse.ArgumentParser()
    for flag in ("client", "url", "key", "calls"):
        parser.add_argument(f"--{flag}", required=True)
    flags = parser.parse_args()
    headers = {"x-api-key": flags.key}
    over_sse = flags.client == "sse"
    mode = "auto" if over_sse else flags.client
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        if over_sse:
            transport = sse_client(flags.url, headers=headers)
        else:
            transport = streamable_http_client(flags.url, http_client=http)
        handlers = {"sampling_callback": sample, "elicitation_callback": elicit, "list_roots_callback": roots}
        async with Client(transport, mode=mode, **handlers) as client:
            SEEN["protocol"] = client.session.protocol_version
            SEEN["tools"] = [tool.name for tool in (await client.list_tools()).tools]
            for name, arguments in json.loads(flags.calls):
                SEEN["results"].append(await call(client, name, arguments))
    print(json.dumps(SEEN))


asyncio.run(main())
