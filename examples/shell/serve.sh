#!/bin/sh
# A datagram service in plain POSIX shell that is upgraded without losing a datagram: it appends each one that arrives
# on its UDP listener to a file, with the name of the process that took it.
#
#   zdsup run --listen inbox=udp:127.0.0.1:5140 --ready fd=4 --environment READY_FD=4 -- \
#       sh examples/shell/serve.sh /tmp/inbox
#   echo hello > /dev/udp/127.0.0.1/5140      # in another terminal, from bash; or: logger -d -n 127.0.0.1 -P 5140 hello
#   zdsup reload                              # as often as you like
#
# (or with serve.toml, see there). A shell cannot accept connections, but reading from a datagram socket takes exactly
# one datagram, and dd(1) reads exactly once. What nobody has read yet waits in the socket, which zdsup keeps.
set -u

lame_duck=2 # seconds that the read which waits when the stop signal comes may still take

inbox=${1:?give the file to append to}
instance=${ZDSUP_INSTANCE:-by hand}
stopping=

# First of all: until now, the stop signal would kill.
trap 'stopping=yes' TERM INT

# sd_listen_fds(3): descriptor 3, if it is meant for this process.
if [ "${LISTEN_FDS:-0}" -lt 1 ] || [ "${LISTEN_PID:-$$}" != $$ ]; then
    echo "no listener was passed: start it with zdsup, as the comment at the top says" >&2
    exit 2
fi

datagram=$(mktemp) || exit 1
trap 'rm -f "$datagram"' EXIT

# Reads one datagram in the background, so that the stop signal is seen while nothing comes. The signal may reach the
# reader too, for instance from a terminal; it must not end it with a datagram in its hands.
read_one() {
    (
        trap '' TERM INT
        exec dd bs=65536 count=1 <&3 >"$datagram" 2>/dev/null
    ) &
    reader=$!
}

# Readiness: a newline on the descriptor that the config names, then close it.
if [ -n "${READY_FD:-}" ]; then
    echo >&"$READY_FD"
    eval "exec $READY_FD>&-"
fi

while [ -z "$stopping" ]; do
    read_one
    wait "$reader" # returns early when the trap has run
    if [ -n "$stopping" ]; then
        sleep "$lame_duck"
        kill -KILL "$reader" 2>/dev/null
        wait "$reader" 2>/dev/null
    fi
    if [ -s "$datagram" ]; then
        printf '%s: %s\n' "$instance" "$(cat "$datagram")" >>"$inbox"
    fi
done
