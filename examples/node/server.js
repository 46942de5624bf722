#!/usr/bin/env node
// An HTTP/1.1 server, nothing but Node's standard library, that is upgraded without a client noticing.
//
//   zdsup run --listen http=127.0.0.1:8080 --ready fd=4 --environment READY_FD=4 -- node examples/node/server.js
//   curl http://127.0.0.1:8080/        # in another terminal
//   zdsup reload                       # as often as you like
//
// (or with server.toml, see there). It also runs by itself: then it binds 127.0.0.1:8080. Node 18.2 or later.
//
// Node cannot send the datagram that `ready.by = "notify"` waits for: its standard library has no unix datagram
// sockets. So it says that it is ready with a newline on a descriptor (`ready.by = "fd"`). Where systemd is installed,
// running `systemd-notify --ready` does it too.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');

// How long answers say `Connection: close` before the server closes connections by itself. It accepts new ones for the
// first half: the last of them has the other half to make its request.
const LAME_DUCK_MS = 4000;

let closing = false;
const open = new Set();
const busy = new Set();

const server = http.createServer((request, response) => {
  busy.add(request.socket);
  response.on('close', () => busy.delete(request.socket));
  request.resume();
  if (closing) response.setHeader('Connection', 'close');
  response.end(`${process.env.ZDSUP_INSTANCE ?? 'by hand'}\n`);
});
server.on('connection', (socket) => {
  open.add(socket);
  socket.on('close', () => open.delete(socket));
});
// By default Node closes a connection that was idle for 5 s, and with it a request that is on its way at that moment.
// Longer than the clients' own time, or that of the proxy before it, it never comes to that.
server.keepAliveTimeout = 75_000;

for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, leave);

function leave() {
  closing = true;
  // The close of net.Server stops accepting and leaves connections alone, where that of http.Server closes idle ones at
  // once. Closing is not shutdown(2): the next generation goes on accepting from the same listener.
  setTimeout(() => net.Server.prototype.close.call(server, () => process.exit(0)), LAME_DUCK_MS / 2);
  setTimeout(() => {
    for (const socket of open) if (!busy.has(socket)) socket.destroy();
  }, LAME_DUCK_MS);
}

// Node calls listen(2) on the inherited listener too, which sets the backlog anew for all generations: to 511, unless it
// is given here. (With a descriptor the option of that name is not looked at, the second argument is.)
server.listen(listener('http') ?? { host: '127.0.0.1', port: 8080 }, 4096, ready);

// The listener of this name as systemd passes it, sd_listen_fds(3).
function listener(name) {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES } = process.env;
  if (LISTEN_FDS === undefined || (LISTEN_PID ?? String(process.pid)) !== String(process.pid)) return undefined;
  const names = (LISTEN_FDNAMES ?? '').split(':');
  if (!names.includes(name)) throw new Error(`no listener is called ${name}: there is only ${names.join(', ')}`);
  return { fd: 3 + names.indexOf(name) };
}

// A newline on the descriptor that the config names.
function ready() {
  const fd = Number(process.env.READY_FD ?? NaN);
  if (!Number.isInteger(fd)) return;
  fs.writeSync(fd, '\n');
  fs.closeSync(fd);
}
