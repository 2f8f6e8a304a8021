// Loaded before a server that would listen on every interface: it listens on 127.0.0.1 only.
//
// `@modelcontextprotocol/server-everything` takes a port and no address; a server whose tools
// answer anybody must not be reachable from the network.
'use strict';

const net = require('node:net');

const listen = net.Server.prototype.listen;

net.Server.prototype.listen = function (first, ...rest) {
  const isPort = typeof first === 'number' || (typeof first === 'string' && /^\d+$/.test(first));
  if (!isPort) {
    return listen.call(this, first, ...rest);
  }
  const options = { port: Number(first), host: '127.0.0.1' };
  return listen.call(this, options, ...rest.filter((argument) => typeof argument === 'function'));
};
