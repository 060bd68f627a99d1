package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"go.uber.org/zap"
)

// notifyWait bounds how long a service manager may hold up the loop that tells
// it something.
const notifyWait = time.Second

// notifier tells the service manager how this service is, as sd_notify(3) does:
// by datagrams to the socket that the manager names. alive is for one goroutine,
// the service's main loop, so that a loop that is stuck is noticed.
type notifier struct {
	socket   string        // "@name" is an abstract one; "": nobody listens
	watchdog time.Duration // the manager kills a service that is silent for so long; 0: never
	status   string        // for people
	log      *zap.Logger
	now      func() time.Time

	ready bool
	fed   time.Time
}

// newNotifier reads from the environment who listens.
func newNotifier(status string, log *zap.Logger) *notifier {
	n := &notifier{socket: os.Getenv("NOTIFY_SOCKET"), status: status, log: log.Named("notify"), now: time.Now}
	if pid := os.Getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		if us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
			n.watchdog = time.Duration(us) * time.Microsecond
		}
	}
	return n
}

// every is how often the loop has to call alive at least, so that the watchdog
// hears of it twice in its time; 0: no need.
func (n *notifier) every() time.Duration {
	if n.socket == "" {
		return 0
	}
	return n.watchdog / 4
}

// alive says that the main loop has made a pass. The first time the service is
// ready with that.
func (n *notifier) alive() {
	switch now := n.now(); {
	case !n.ready:
		if n.send("READY=1\nSTATUS=" + n.status) {
			n.ready, n.fed = true, now
		}
	case n.watchdog > 0 && now.Sub(n.fed) >= n.watchdog/4:
		if n.send("WATCHDOG=1") {
			n.fed = now
		}
	}
}

// stopping waits until ctx ends, and says that the service then does.
func (n *notifier) stopping(ctx context.Context) {
	<-ctx.Done()
	if errors.Is(context.Cause(ctx), errTrustChanged) {
		return // it begins anew
	}
	n.send("STOPPING=1\nSTATUS=stopping")
}

// send reports whether nobody listens, or has been told.
func (n *notifier) send(text string) bool {
	if n.socket == "" {
		return true
	}
	err := notify(n.socket, text)
	if err != nil {
		n.log.Warn("cannot tell the service manager, will retry", zap.Error(err))
	}
	return err == nil
}

func notify(socket, text string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	err = conn.SetWriteDeadline(time.Now().Add(notifyWait))
	if err == nil {
		_, err = conn.Write([]byte(text))
	}
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}
