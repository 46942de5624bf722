// An HTTP/1.1 server, nothing but Go's standard library, that is upgraded without a client noticing.
//
//	go build -o /tmp/server examples/go/main.go
//	zdsup run --listen http=127.0.0.1:8080 -- /tmp/server
//	curl http://127.0.0.1:8080/        # in another terminal
//	zdsup reload                       # as often as you like
//
// (or with server.toml, see there). It also runs by itself: then it binds 127.0.0.1:8080. Go 1.19 or later.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// How long answers say `Connection: close` before the server closes connections by itself. It accepts new ones for the
// first half: the last of them has the other half to make its request.
const lameDuck = 4 * time.Second

func main() {
	var closing atomic.Bool
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		if closing.Load() {
			w.Header().Set("Connection", "close")
		}
		fmt.Fprintln(w, instance())
	})
	// No IdleTimeout: a connection that the server closes may have a request on its way.
	server := &http.Server{}

	leave := make(chan os.Signal, 1)
	signal.Notify(leave, syscall.SIGTERM, syscall.SIGINT)
	listener, err := listen("http")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, net.ErrClosed) {
			log.Fatal(err)
		}
	}()
	if err := notify("READY=1"); err != nil {
		log.Fatal(err)
	}

	<-leave
	notify("STOPPING=1")
	closing.Store(true)
	time.Sleep(lameDuck / 2)
	// Of a TCP listener this is close(2) and not shutdown(2): the next generation goes on accepting from it. The
	// server's own Shutdown would close idle connections at once, too.
	listener.Close()
	time.Sleep(lameDuck / 2)
	// Now it does, and waits for the requests that have begun.
	server.Shutdown(context.Background())
}

// The listener of this name as systemd passes it, sd_listen_fds(3); one of our own where none is passed.
func listen(name string) (net.Listener, error) {
	count, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if pid := os.Getenv("LISTEN_PID"); err != nil || (pid != "" && pid != strconv.Itoa(os.Getpid())) {
		return net.Listen("tcp", "127.0.0.1:8080")
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for i := 0; i < count && i < len(names); i++ {
		if names[i] == name {
			file := os.NewFile(uintptr(3+i), name)
			defer file.Close() // FileListener duplicates it.
			return net.FileListener(file)
		}
	}
	return nil, fmt.Errorf("no listener is called %s: there is only %s", name, strings.Join(names, ", "))
}

// A message to whoever started us, sd_notify(3). Go takes a leading @ for an abstract address, as systemd does.
func notify(message string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	socket, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer socket.Close()
	_, err = socket.Write([]byte(message))
	return err
}

func instance() string {
	if name := os.Getenv("ZDSUP_INSTANCE"); name != "" {
		return name
	}
	return "by hand"
}
