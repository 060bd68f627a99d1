package fake_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kernel fits a host to the suite.
type kernel struct{ *fake.Host }

func (k kernel) Open() (hostops.Driver, error) {
	d, err := k.Host.Open()
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (k kernel) InRoom(path, name string) (hosttest.Inner, error) {
	in, err := k.Host.InRoom(path, name)
	return hosttest.Inner{MAC: in.MAC, MTU: in.MTU, Up: in.Up, Addresses: in.Addresses, Routes: in.Routes}, err
}

func TestSuite(t *testing.T) {
	hosttest.Run(t, func(t *testing.T) hosttest.Kernel {
		h := fake.NewNetwork().NewHost(hosttest.Underlays()...)
		t.Cleanup(func() {
			if n := h.Loops(); n > 0 {
				t.Errorf("%d times a tunnel's port was up without isolation", n)
			}
		})
		return kernel{h}
	})
}
