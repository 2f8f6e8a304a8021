"""A small server over HTTP+SSE by the official SDK in Python.

    python sse_server.py PORT

Its tools: `echo`, which gives a text back, and `ask`, which lets the client's model speak in between.
"""

import sys

from mcp import types
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("sse")


@server.tool()
def echo(message: str) -> str:
    return f"Echo: {message}"


@server.tool()
async def ask(ctx: Context) -> str:
    content = types.TextContent(type="text", text="speak")
    messages = [types.SamplingMessage(role="user", content=content)]
    result = await ctx.session.create_message(messages=messages, max_tokens=5)
    return result.content.text


server.run("sse", port=int(sys.argv[1]))
