package main

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
)

// TestTakeHost: who has the host for a moment does not end an agent that starts;
// another agent does, and what is not about that at once.
func TestTakeHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := fake.NewNetwork().NewHost()
		other, err := host.Open()
		if err != nil {
			t.Fatal(err)
		}
		open := func() (hostops.Driver, error) { return host.Open() }
		begun := time.Now()
		if _, err := takeHost(t.Context(), open); !errors.Is(err, hostops.ErrBusy) || time.Since(begun) != hostWithin {
			t.Errorf("another agent: %v after %v", err, time.Since(begun))
		}
		time.AfterFunc(time.Second, func() { _ = other.Close() })
		begun = time.Now()
		driver, err := takeHost(t.Context(), open)
		if err != nil || time.Since(begun) > time.Second+hostAgain {
			t.Errorf("another for a second: %v after %v", err, time.Since(begun))
		}
		if err == nil {
			_ = driver.Close()
		}
		begun = time.Now()
		refuse := func() (hostops.Driver, error) { return nil, hostops.ErrUnsupported }
		if _, err := takeHost(t.Context(), refuse); !errors.Is(err, hostops.ErrUnsupported) || time.Since(begun) != 0 {
			t.Errorf("a host that cannot: %v after %v", err, time.Since(begun))
		}
	})
}
