// Runs cases with an official client in JavaScript: reads one case a line of stdin, calls its tool, and writes one line
// that says what the client saw.
//
//   node cases.mjs --client v1|v2|v2-legacy --modules NODE_MODULES --key KEY
//   in:  {"case":7,"url":"http://…/mcp/old","tool":"t7","timeoutMs":2000}
//   out: {"case":7,"saw":"success|tool_error|later|error|invalid|gave_up|nothing","answers":1,"detail":"…"}
//
// `answers` counts what the transport handed over with the id of the call, so two answers are seen as two. `later` is
// a task or a question instead of a result; `invalid` is a result that reached the client and that its schema refused.
// `gave_up` is Python's: it made an error of its own when the call's stream ended, and a result came another way.
// One connected client makes one call at a time; it is thrown away after some calls, or after a call that it saw
// nothing of.
import process from 'node:process';
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: { client: { type: 'string' }, modules: { type: 'string' }, key: { type: 'string' } },
});
process.on('uncaughtException', () => undefined);
process.on('unhandledRejection', () => undefined);
const CALLS_A_CLIENT = 40;
const AFTER_ANSWER_MS = 25;
const info = { name: 'tollbook-differential', version: '1.0.0' };
const capabilities = { sampling: {}, elicitation: {}, roots: {} };
const require = createRequire(`${values.modules}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

const options = {
  requestInit: { headers: { 'x-api-key': values.key } },
  reconnectionOptions: {
    initialReconnectionDelay: 20, maxReconnectionDelay: 40, reconnectionDelayGrowFactor: 1, maxRetries: 2,
  },
};

async function connect(url) {
  const v1 = values.client === 'v1';
  const library = v1 ? await load('@modelcontextprotocol/sdk/client/index.js') : await load('@modelcontextprotocol/client');
  const http = v1 ? await load('@modelcontextprotocol/sdk/client/streamableHttp.js') : library;
  const mode = values.client === 'v2' ? 'auto' : 'legacy';
  const client = new library.Client(info, v1 ? { capabilities } : { capabilities, versionNegotiation: { mode } });
  const transport = new http.StreamableHTTPClientTransport(new URL(url), options);
  await client.connect(transport);
  const one = { url, client, transport, calls: 0, tally: null };
  const inner = transport.onmessage;
  transport.onmessage = (message, extra) => {
    if (one.tally && message.id !== undefined && message.method === undefined) one.tally(message);
    return inner?.call(transport, message, extra);
  };
  const send = transport.send.bind(transport);
  transport.send = (message, more) => {
    if (message?.method === 'tools/call') one.round?.(message.id);
    return send(message, more);
  };
  return one;
}

const idle = new Map();

async function take(url) {
  return idle.get(url)?.pop() ?? connect(url);
}

function give(one, usable) {
  one.calls += 1;
  if (!usable || one.calls >= CALLS_A_CLIENT) {
    one.transport.terminateSession?.().catch(() => undefined).finally(() => one.client.close().catch(() => undefined));
    return;
  }
  if (!idle.has(one.url)) idle.set(one.url, []);
  idle.get(one.url).push(one);
}

async function run({ case: number, url, tool, timeoutMs }) {
  let one;
  for (let tries = 0; !one; tries += 1) {
    try {
      one = await take(url);
    } catch (error) {
      if (tries >= 3) return { case: number, saw: 'unconnected', answers: 0, detail: String(error?.message ?? error) };
      await pause(100);
    }
  }
  const seen = { result: 0, error: 0 };
  one.id = undefined;
  // A question that was answered makes another round: its answers are of another call.
  one.round = (id) => Object.assign(one, { id }) && Object.assign(seen, { result: 0, error: 0 });
  one.tally = (message) => {
    if (Number(message.id) !== one.id && message.id !== one.id) return;
    if (message.error === undefined) seen.result += 1;
    else seen.error += 1;
  };
  let saw;
  let detail = '';
  const params = { name: tool, arguments: {} };
  try {
    const limits = { timeout: timeoutMs };
    const result = values.client === 'v1'
      ? await one.client.callTool(params, undefined, limits)
      : await one.client.callTool(params, limits);
    const later = ['task', 'input_required'].includes(result.resultType) || (result.task && !result.content?.length);
    saw = result.isError ? 'tool_error' : later ? 'later' : 'success';
    detail = JSON.stringify(result).slice(0, 300);
  } catch (error) {
    saw = seen.error > 0 ? 'error' : seen.result > 0 ? 'invalid' : 'nothing';
    detail = `${error?.code ?? ''} ${error?.message ?? error}`.slice(0, 300);
  }
  if (seen.result + seen.error > 0) await pause(AFTER_ANSWER_MS);
  one.tally = null;
  one.round = null;
  give(one, saw !== 'nothing' && saw !== 'invalid');
  return { case: number, saw, answers: seen.result + seen.error, detail };
}

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  run(order).then((told) => process.stdout.write(`${JSON.stringify(told)}\n`));
}
process.exit(0);
