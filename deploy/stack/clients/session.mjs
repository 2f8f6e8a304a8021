// One session of an official client in JavaScript: connects, lists the tools, makes the calls that it is told, and
// says what it saw.
//
//   node session.mjs --client v1|v1-sse|v1-ws|v2|v2-legacy|v2-sse|remote --url URL --key KEY --calls '[["echo",{"message":"hi"}]]'
//
// `v1` is @modelcontextprotocol/sdk (sessions); `v2` is @modelcontextprotocol/client, which asks what the server
// speaks; `v2-legacy` is the same told to open a session; `remote` is `v1` over stdio to mcp-remote, as a desktop
// application runs it; `-sse` and `-ws` are the same over HTTP+SSE and WebSocket. The last line of stdout is
//   {"protocol":"2025-11-25"|null,"tools":["echo"],"results":[{"text":"Echo: hi"},{"error":42901}],"progress":0,"asked":0}
// where an error is the JSON-RPC code if the client tells it, else its words; `asked` counts what the server asked.
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: { client: { type: 'string' }, url: { type: 'string' }, key: { type: 'string' }, calls: { type: 'string' } },
});
const info = { name: 'tollbook-clients', version: '1.0.0' };
const capabilities = { sampling: {}, elicitation: {}, roots: {} };
const requestInit = { headers: { 'x-api-key': values.key } };
const seen = { protocol: null, tools: [], results: [], progress: 0, asked: 0 };

const sample = () => {
  seen.asked += 1;
  return { model: 'none', role: 'assistant', content: { type: 'text', text: 'sampled' } };
};
const elicit = () => {
  seen.asked += 1;
  return { action: 'decline' };
};

async function v1(transport) {
  const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
  const types = await import('@modelcontextprotocol/sdk/types.js');
  const client = new Client(info, { capabilities });
  client.setRequestHandler(types.CreateMessageRequestSchema, sample);
  client.setRequestHandler(types.ElicitRequestSchema, elicit);
  client.setRequestHandler(types.ListRootsRequestSchema, () => ({ roots: [] }));
  await client.connect(transport);
  const call = (params, options) => client.callTool(params, undefined, options);
  return { client, call, protocol: transport.protocolVersion ?? transport._protocolVersion ?? null };
}

async function overHttp() {
  const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
  return v1(new StreamableHTTPClientTransport(new URL(values.url), { requestInit }));
}

async function overSse() {
  const { SSEClientTransport } = await import('@modelcontextprotocol/sdk/client/sse.js');
  return v1(new SSEClientTransport(new URL(values.url), { requestInit }));
}

async function overWebSocket() {
  const { WebSocketClientTransport } = await import('@modelcontextprotocol/sdk/client/websocket.js');
  // The SDK gives its socket no headers; Node's own takes some.
  const Plain = globalThis.WebSocket;
  globalThis.WebSocket = class extends Plain {
    constructor(url, protocols) {
      super(url, { protocols, headers: requestInit.headers });
    }
  };
  return v1(new WebSocketClientTransport(new URL(values.url)));
}

async function overRemote() {
  const { StdioClientTransport } = await import('@modelcontextprotocol/sdk/client/stdio.js');
  const proxy = fileURLToPath(new URL('node_modules/mcp-remote/dist/proxy.js', import.meta.url));
  const args = [proxy, values.url, '--header', `x-api-key:${values.key}`];
  return v1(new StdioClientTransport({ command: process.execPath, args, env: process.env }));
}

async function v2(mode, kind = 'StreamableHTTPClientTransport') {
  const { Client, [kind]: Transport } = await import('@modelcontextprotocol/client');
  const client = new Client(info, { capabilities, versionNegotiation: { mode } });
  client.setRequestHandler('sampling/createMessage', sample);
  client.setRequestHandler('elicitation/create', elicit);
  client.setRequestHandler('roots/list', () => ({ roots: [] }));
  const transport = new Transport(new URL(values.url), { requestInit });
  await client.connect(transport);
  const call = (params, options) => client.callTool(params, options);
  return { client, call, protocol: client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion ?? null };
}

const ways = {
  v1: overHttp,
  'v1-sse': overSse,
  'v1-ws': overWebSocket,
  remote: overRemote,
  v2: () => v2('auto'),
  'v2-legacy': () => v2('legacy'),
  'v2-sse': () => v2('auto', 'SSEClientTransport'),
};

// Clients that keep a refusal's body in their words have it behind a prefix of their own.
function told(error) {
  const words = String(error?.message ?? error);
  const body = words.slice(words.indexOf('{'));
  try {
    return JSON.parse(body).error.code;
  } catch {
    // The code of a JSON-RPC error, but not an HTTP status.
    const isCode = Number.isInteger(error?.code) && (error.code < 0 || error.code > 999);
    return isCode ? error.code : words;
  }
}

const { client, call, protocol } = await ways[values.client]();
seen.protocol = protocol;
seen.tools = (await client.listTools()).tools.map((tool) => tool.name);
for (const [name, args] of JSON.parse(values.calls)) {
  try {
    const result = await call({ name, arguments: args }, { onprogress: () => { seen.progress += 1; } });
    const text = result.content?.map((part) => part.text ?? '').join('') ?? '';
    seen.results.push(result.isError ? { error: text } : { text });
  } catch (error) {
    seen.results.push({ error: told(error) });
  }
}
await client.transport?.terminateSession?.().catch(() => undefined);
await client.close();
console.log(JSON.stringify(seen));
