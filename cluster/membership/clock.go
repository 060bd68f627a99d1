package membership

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Offset is how far another clock is ahead of this host's: between Low and
// High, both negative if it is behind.
type Offset struct{ Low, High time.Duration }

// ClockOffset asks the server whose join service is at address, host:port, for
// its time. It is told in whole seconds, so that Offset spans a second and the
// time that the answer took. Another than a server of c's CA is not believed and
// wraps ErrUntrusted. now is this host's clock.
func ClockOffset(ctx context.Context, address string, c Credential, now func() time.Time) (Offset, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/", nil)
	if err != nil {
		return Offset{}, fmt.Errorf("ask server for its time: %w", err)
	}
	transport := &http.Transport{TLSClientConfig: Dialer(c.Load), DisableKeepAlives: true, TLSHandshakeTimeout: readWithin}
	sent := now()
	resp, err := transport.RoundTrip(req)
	received := now()
	if err != nil {
		return Offset{}, fmt.Errorf("ask server for its time: %w", err)
	}
	defer resp.Body.Close()
	date, err := http.ParseTime(resp.Header.Get("Date")) // any status has one
	if err != nil {
		return Offset{}, fmt.Errorf("ask server for its time: %w", err)
	}
	return offsetOf(date, sent, received), nil
}

// offsetOf is what follows from a time, cut to the second, that was told between
// sent and received.
func offsetOf(date, sent, received time.Time) Offset {
	return Offset{date.Sub(received.Round(0)), date.Add(time.Second).Sub(sent.Round(0))} // Round: clocks that were set, not the monotonic one
}
