#!/usr/bin/env python3
"""An HTTP/1.1 server, standard library only, that is upgraded without a client noticing.

    zdsup run --listen http=127.0.0.1:8080 -- python3 examples/python/server.py    # or with server.toml, see there
    curl http://127.0.0.1:8080/                                                    # in another terminal
    zdsup reload                                                                   # as often as you like

It also runs by itself: then it binds 127.0.0.1:8080. Python 3.8 or later.
"""

import http.server
import os
import select
import signal
import socket
import time

# Seconds in which answers say `Connection: close` before the server closes connections by itself. It accepts new ones
# for the first half: the last of them has the other half to make its request.
LAME_DUCK = 4.0


class Shutdown:
    """The wish that this process end, made by SIGTERM or SIGINT."""

    def __init__(self):
        self.requested_at = None
        # Readable once the wish is made, for ever: the byte in it is never read, so it wakes every thread that waits.
        self.reader, self.writer = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.request)

    def request(self, *_):
        if self.requested_at is None:
            self.requested_at = time.monotonic()
            os.write(self.writer, b"x")

    def wait_readable(self, sock, after):
        """Waits for something to read, at most until so long after the wish. Returns whether there is."""
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if self.requested_at is None:
            poll.register(self.reader, select.POLLIN)
            if any(fd == sock.fileno() for fd, _ in poll.poll()):
                return True
            poll.unregister(self.reader)
        left = self.requested_at + after - time.monotonic()
        return bool(poll.poll(max(0, left * 1000)))


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    timeout = 30  # for a request that has begun

    def handle(self):
        self.close_connection = False
        while not self.close_connection and self.next_request():
            self.handle_one_request()

    def next_request(self):
        # A request that was pipelined behind the last one may be here already.
        self.connection.setblocking(False)
        buffered = self.rfile.peek(1)
        self.connection.settimeout(self.timeout)
        return buffered or self.server.shutdown_wish.wait_readable(self.connection, LAME_DUCK)

    def do_GET(self):
        self.answer(200, os.environ.get("ZDSUP_INSTANCE", "by hand"))

    def answer(self, status, text):
        body = (text + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.server.shutdown_wish.requested_at is not None:
            self.send_header("Connection", "close")  # also makes the base class close it
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for the connections

    def __init__(self, listener, shutdown_wish, answer):
        super().__init__(listener.getsockname(), answer, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.shutdown_wish = shutdown_wish

    def accept_until_halfway(self):
        # Other generations accept from the same listener: a blocking accept could wait for a connection that another
        # one took, and never see that it should stop.
        self.socket.setblocking(False)
        while self.shutdown_wish.wait_readable(self.socket, LAME_DUCK / 2):
            self._handle_request_noblock()

    def handle_error(self, request, client_address):
        pass  # a client that goes away is its own affair


def listener(name, fallback):
    """The listener of this name as systemd passes it, sd_listen_fds(3); without any, one bound to `fallback`."""
    if os.environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()) or "LISTEN_FDS" not in os.environ:
        return socket.create_server(fallback, backlog=1024)
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if name not in names:
        raise SystemExit(f"no listener is called {name}: there is only {', '.join(names)}")
    fd = 3 + names.index(name)
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def notify(message):
    """Tells the supervisor, sd_notify(3); without one, nobody."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        if address[0] == "@":
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(message.encode(), address)


def main(answer=Answer):
    wish = Shutdown()  # first of all: until now, the stop signal would kill
    server = Server(listener("http", ("127.0.0.1", 8080)), wish, answer)
    notify("READY=1\nSTATUS=answering on the listener http")
    server.accept_until_halfway()
    notify("STOPPING=1")
    server.server_close()  # closes the listener without shutdown(), and waits for the requests that have begun


if __name__ == "__main__":
    main()
