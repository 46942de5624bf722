"""A service for the tests in a real systemd; its argument says how it behaves (see MODES)."""

import os
import select
import signal
import socket
import sys
import threading
import time


def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        address = os.environ["NOTIFY_SOCKET"]
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(text.encode())


def answer(connection):
    """One request: `/slow` takes a second and a half, anything else no time. The answer is the generation."""
    with connection:
        connection.settimeout(10)
        request = b""
        while b"\r\n\r\n" not in request:
            part = connection.recv(4096)
            if not part:
                return
            request += part
        if request.startswith(b"GET /slow"):
            print("slow request begun", flush=True)
            time.sleep(1.5)
        body = os.environ["ZDSUP_GENERATION"].encode() + b"\n"
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        connection.sendall(head + body)


def serve(linger=0.0):
    """Serves until SIGTERM, then finishes what it has accepted, and takes `linger` seconds more."""
    stop, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, lambda *_: None)
    listeners = [socket.socket(fileno=3 + n) for n in range(int(os.environ["LISTEN_FDS"]))]
    assert os.environ["LISTEN_PID"] == str(os.getpid())
    for listener in listeners:
        listener.setblocking(False)
    poll = select.epoll()
    poll.register(stop)
    for listener in listeners:
        poll.register(listener)
    notify("READY=1\nSTATUS=serving")
    print("serving on", os.environ["LISTEN_FDNAMES"], flush=True)
    requests = []
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if stop in ready:
            break
        for listener in listeners:
            if listener.fileno() in ready:
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue
                requests = [thread for thread in requests if thread.is_alive()]
                requests.append(threading.Thread(target=answer, args=[connection]))
                requests[-1].start()
    poll.close()
    notify("STOPPING=1\nSTATUS=finishing")
    for listener in listeners:
        listener.close()
    for thread in requests:
        thread.join()
    time.sleep(linger)


def never_ready():
    print("waiting for a database that is not there", flush=True)
    signal.pause()


def crashes():
    print("cannot read the settings: no such file", file=sys.stderr, flush=True)
    sys.exit(3)


def segfaults():
    os.kill(os.getpid(), signal.SIGSEGV)


def ready_then_dies():
    notify("READY=1")
    time.sleep(0.3)
    print("lost the database", file=sys.stderr, flush=True)
    sys.exit(4)


def slowly_ready():
    """Takes three seconds to get ready."""
    time.sleep(3)
    serve()


def gated():
    """Gets ready once a file is there."""
    while not os.path.exists("/etc/zdsup/gate"):
        time.sleep(0.02)
    serve()


def with_family():
    """Has children in sessions of their own, which ignore SIGTERM and outlive it."""
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.pause()
    serve()


def watched():
    """Says that it lives, four times in the time that it is given for that."""
    assert os.environ["WATCHDOG_PID"] == str(os.getpid())
    pause = int(os.environ["WATCHDOG_USEC"]) / 4e6

    def beat():
        while True:
            notify("WATCHDOG=1")
            time.sleep(pause)

    threading.Thread(target=beat, daemon=True).start()
    serve()


def names():
    """Says what it was given, and leaves it alone."""
    assert len(os.environ["LISTEN_FDNAMES"].split(":")) == int(os.environ["LISTEN_FDS"])
    print("listening on", os.environ["LISTEN_FDNAMES"], flush=True)
    notify("READY=1")
    signal.pause()


MODES = {
    "serve": serve,
    "lingers": lambda: serve(linger=4),
    "never-ready": never_ready,
    "crashes": crashes,
    "segfaults": segfaults,
    "ready-then-dies": ready_then_dies,
    "slowly-ready": slowly_ready,
    "gated": gated,
    "with-family": with_family,
    "watched": watched,
    "names": names,
}

if __name__ == "__main__":
    MODES[sys.argv[1]]()
