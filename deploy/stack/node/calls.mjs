// Makes tool calls through a gateway with the official MCP client and counts what came of them.
//
//   node calls.mjs --url http://127.0.0.1:PORT/mcp --key KEY --calls 100
//                  [--tools echo,get-sum] [--concurrency 4] [--json]
//
// Progress goes to stderr (not with --json). The last line of stdout is
//   {"attempted":N,"succeeded":S,"refused":R,"failed":F,"errors":{"message":count}}
// A refusal is HTTP 429 with a JSON-RPC error as its body; everything else that is not a result is
// a failure, a result that says `isError` too. Exit code: 0 when nothing failed, else 1.
//
// Each worker has a client of its own and connects again after a failure, since a gateway that was
// restarted knows no session of before. No call is ever repeated: a repeated call is another call.
import process from 'node:process';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const RECONNECT_PAUSE_MS = 200;

function readFlags() {
  const { values } = parseArgs({
    options: {
      url: { type: 'string' },
      key: { type: 'string' },
      calls: { type: 'string', default: '100' },
      tools: { type: 'string', default: 'echo,get-sum' },
      concurrency: { type: 'string', default: '4' },
      json: { type: 'boolean', default: false },
    },
  });
  const whole = (name) => {
    const number = Number(values[name]);
    if (!Number.isSafeInteger(number) || number < 1) throw new Error(`--${name}: not a whole number above 0`);
    return number;
  };
  if (!values.url || !values.key) throw new Error('--url and --key are needed');
  return {
    ...values,
    calls: whole('calls'),
    concurrency: whole('concurrency'),
    tools: values.tools.split(',').filter(Boolean),
  };
}

const counts = { attempted: 0, succeeded: 0, refused: 0, failed: 0, errors: {} };

function fail(message) {
  const short = String(message).slice(0, 200);
  counts.failed += 1;
  counts.errors[short] = (counts.errors[short] ?? 0) + 1;
}

// The client keeps a 429's body in its message, after a prefix of its own.
function isRefusal(error) {
  if (error?.code !== 429) return false;
  const body = error.message.slice(error.message.indexOf('{'));
  try {
    const { jsonrpc, error: refusal } = JSON.parse(body);
    return jsonrpc === '2.0' && Number.isInteger(refusal?.code);
  } catch {
    return false;
  }
}

async function connect({ url, key }) {
  const client = new Client({ name: 'tollbook-calls', version: '1.0.0' });
  const headers = { 'x-api-key': key };
  const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
  await client.connect(transport);
  const { tools } = await client.listTools();
  return { client, transport, schemas: new Map(tools.map((tool) => [tool.name, tool.inputSchema])) };
}

async function disconnect(session) {
  if (!session) return;
  // A gateway that has gone, or has no sessions, refuses the first: the second frees the socket.
  await session.transport.terminateSession().catch(() => undefined);
  await session.client.close();
}

// The least arguments that a tool's schema allows.
function sample(schema) {
  if (schema === undefined) throw new Error('the server does not list this tool');
  const value = (property) => {
    if (property.default !== undefined) return property.default;
    if (property.enum) return property.enum[0];
    switch (property.type) {
      case 'integer':
      case 'number': return property.minimum ?? 1;
      case 'boolean': return true;
      case 'array': return [];
      case 'object': return sample(property);
      default: return 'hello';
    }
  };
  const properties = schema.properties ?? {};
  return Object.fromEntries((schema.required ?? []).map((name) => [name, value(properties[name] ?? {})]));
}

async function call(session, name) {
  const result = await session.client.callTool({ name, arguments: sample(session.schemas.get(name)) });
  if (result.isError) throw new Error(`tool ${name} says: ${result.content?.[0]?.text ?? 'error'}`);
}

async function work(flags, take) {
  let session;
  for (let index = take(); index !== undefined; index = take()) {
    counts.attempted += 1;
    try {
      session ??= await connect(flags);
      await call(session, flags.tools[index % flags.tools.length]);
      counts.succeeded += 1;
    } catch (error) {
      if (isRefusal(error)) {
        counts.refused += 1;
        continue;
      }
      fail(error?.cause?.code ? `${error.message} (${error.cause.code})` : error?.message ?? error);
      await disconnect(session).catch(() => undefined);
      session = undefined;
      await pause(RECONNECT_PAUSE_MS);
    }
  }
  await disconnect(session);
}

function say(total) {
  const { attempted, succeeded, refused, failed } = counts;
  console.error(`calls: ${attempted} of ${total}: ${succeeded} succeeded, ${refused} refused, ${failed} failed`);
}

async function main() {
  const flags = readFlags();
  let next = 0;
  const take = () => (next < flags.calls ? next++ : undefined);
  const ticker = flags.json ? undefined : setInterval(() => say(flags.calls), 1000);
  const workers = Math.min(flags.concurrency, flags.calls);
  await Promise.all(Array.from({ length: workers }, () => work(flags, take)));
  clearInterval(ticker);
  if (!flags.json) say(flags.calls);
  console.log(JSON.stringify(counts));
  process.exitCode = counts.failed === 0 ? 0 : 1;
}

main().catch((error) => {
  console.error(`calls: ${error.message}`);
  process.exitCode = 1;
});
