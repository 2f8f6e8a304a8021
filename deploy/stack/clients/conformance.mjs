// The client of the conformance suite's scenarios for clients: lists all there is, calls every tool, answers what it
// is asked. The suite gives it the server's URL as the last argument, and the calls to make, if it wants other ones,
// in MCP_CONFORMANCE_CONTEXT.
//
//   node conformance.mjs [--mode auto|legacy] [--node BINARY --key KEY] URL
//
// With `--node` it calls through that mcp-node, which it starts in front of the server, and whose other settings are in
// the environment.
import { spawn } from 'node:child_process';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { mode: { type: 'string', default: 'auto' }, node: { type: 'string' }, key: { type: 'string' } },
});
const { toolCalls } = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? '{}');
const headers = values.key ? { 'x-api-key': values.key } : {};

// A node in front of `server`: its own URL, once it serves and knows the key, and the process.
async function front(server) {
  const settings = ['--listen', '127.0.0.1:0', '--upstream', server];
  const env = { ...process.env, NO_COLOR: '1' };
  const gateway = spawn(values.node, settings, { env, stdio: ['ignore', 'inherit', 'pipe'] });
  process.on('exit', () => gateway.kill());
  let url;
  for await (const line of createInterface(gateway.stderr)) {
    console.error(line);
    url ??= line.match(/address=(\S+)/)?.[1];
    if (line.includes('Serving')) break;
  }
  if (!url) throw new Error('the node does not start');
  gateway.stderr.pipe(process.stderr);
  url = new URL(`http://${url}/mcp`);
  const ping = { method: 'POST', headers: { ...headers, 'content-type': 'application/json' }, body: '{}' };
  // What is no message is refused with 400, and before that, while the key is not known, with 401.
  while ((await fetch(url, ping)).status === 401) await new Promise((done) => setTimeout(done, 20));
  return { url, gateway };
}

const server = positionals.at(-1);
const { url, gateway } = values.node ? await front(server) : { url: new URL(server) };
const capabilities = { sampling: {}, elicitation: { form: { applyDefaults: true } }, roots: {} };
const versionNegotiation = { mode: values.mode };
const client = new Client({ name: 'tollbook-clients', version: '1.0.0' }, { capabilities, versionNegotiation });
client.setRequestHandler('elicitation/create', (asked) => {
  const fields = Object.entries(asked.params.requestedSchema?.properties ?? {});
  const content = {};
  for (const [name, schema] of fields) if (schema.default === undefined) content[name] = example(schema);
  return { action: 'accept', content };
});
client.setRequestHandler('sampling/createMessage', () => ({
  model: 'none', role: 'assistant', content: { type: 'text', text: 'sampled' },
}));
client.setRequestHandler('roots/list', () => ({ roots: [] }));

function example(schema) {
  if (schema.enum) return schema.enum[0];
  return { number: 1, integer: 1, boolean: true, array: [], object: {} }[schema.type] ?? 'text';
}

function examples({ properties = {}, required = [] }) {
  return Object.fromEntries(required.map((name) => [name, example(properties[name] ?? {})]));
}

const has = (name) => client.getServerCapabilities()?.[name] !== undefined;
await client.connect(new StreamableHTTPClientTransport(url, { requestInit: { headers } }));
const { tools } = await client.listTools();
const calls = toolCalls ?? tools.map(({ name, inputSchema }) => ({ name, arguments: examples(inputSchema) }));
for (const call of calls) {
  try {
    await client.callTool(call);
  } catch (error) {
    console.error(`${call.name}: ${error}`);
  }
}
if (has('resources')) {
  for (const { uri } of (await client.listResources()).resources) await client.readResource({ uri });
}
if (has('prompts')) {
  for (const { name } of (await client.listPrompts()).prompts) await client.getPrompt({ name });
}
await client.close();
if (gateway) {
  // In order, so that what it counted is on the log before the next one begins.
  const ended = new Promise((done) => gateway.on('exit', done));
  gateway.kill('SIGTERM');
  await ended;
}
process.exit(0);
