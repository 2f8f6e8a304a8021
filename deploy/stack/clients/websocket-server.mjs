// server-everything over WebSocket, which it does not speak itself: its own server object behind a socket of `ws`.
//
//   node websocket-server.mjs
//
// The first line of stdout is the address. A client whose `authorization` is not `Bearer upstream` is refused if the
// variable WANTS_KEY is set.
import process from 'node:process';
import { createServer } from '@modelcontextprotocol/server-everything/dist/server/index.js';
import { WebSocketServer } from 'ws';

class SocketTransport {
  constructor(socket) {
    this.socket = socket;
    this.sessionId = crypto.randomUUID();
  }

  async start() {
    this.socket.on('message', (data) => this.onmessage?.(JSON.parse(data)));
    this.socket.on('close', () => this.onclose?.());
    this.socket.on('error', (error) => this.onerror?.(error));
  }

  async send(message) {
    this.socket.send(JSON.stringify(message));
  }

  async close() {
    this.socket.close();
  }
}

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  handleProtocols: (offered) => (offered.has('mcp') ? 'mcp' : false),
  verifyClient: ({ req }) => !process.env.WANTS_KEY || req.headers.authorization === 'Bearer upstream',
});
server.on('connection', async (socket) => {
  const { server: everything, cleanup } = createServer();
  const transport = new SocketTransport(socket);
  everything.server.onclose = () => cleanup(transport.sessionId);
  await everything.connect(transport);
});
server.on('listening', () => console.log(`ws://127.0.0.1:${server.address().port}/`));
