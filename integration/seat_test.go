package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// TestFailoverLosesController: with its datacenter a service loses the controller, too,
// and then the server that leads the store besides. It answers elsewhere all the same,
// and not because the lease of the lost controller has ended.
func TestFailoverLosesController(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s := newService(ctx, t, "seat")
	// Something that can move in each datacenter, so that the controller has no better
	// place to lead from.
	_, err := s.Meshvpc(ctx, s.Server, "endpoint", "create", "other", "--vpc", "vpc1", "--place", third+",all", "--mode", "stateless")
	s.must(err)
	s.must(s.Lab.AddWorkload(ctx, lab.Workload{Host: third, Name: "other"}))
	_, err = s.Meshvpc(ctx, third, "endpoint", "attach", "other", "--netns", "other")
	s.must(err)

	ended := 0
	for _, storeLeader := range []string{"witness", second} {
		s.leadFrom(ctx, second, storeLeader)
		wait(ctx, 8*time.Second) // the new leader has to see for itself that all is well
		got := s.pinging(ctx, s.client, func() {
			s.must(s.Lab.PowerOff(ctx, "hetzner"))
			s.at(ctx, third)
		})
		t.Logf("lost with the controller, the store led by %s: %s without an answer, %d pings lost", storeLeader, got.Gap.Round(time.Millisecond), got.Lost)
		said, err := os.ReadFile(filepath.Join(s.Lab.Disk(third).Log, "server.log"))
		s.must(err)
		ended = strings.Count(string(said), "end the lead of "+second+", which is lost")
		s.must(s.Lab.Boot(ctx, "hetzner"))
		s.must(s.AwaitVoters(ctx, third, 3))
		s.unfenced(ctx)
		s.must(s.Lab.AddWorkload(ctx, lab.Workload{Host: first, Name: serviceName}))
		s.must(s.Until(ctx, func() error { return s.silent(ctx, first) }))
		s.must(s.Until(ctx, func() error {
			_, err := s.Meshvpc(ctx, third, "endpoint", "move", serviceName, "--node", first)
			return err
		}))
		s.at(ctx, first)
	}
	if ended == 0 { // a busy machine may be slower than the lease, but not each time
		t.Errorf("%s never ended the lead of %s", third, second)
	}
}

// leadFrom has the controller and the store lead from these servers.
func (s *service) leadFrom(ctx context.Context, controller, storeLeader string) {
	s.t.Helper()
	s.must(s.Until(ctx, func() error {
		leads, err := s.Meshvpc(ctx, s.Server, "get", "leader/controller")
		if err == nil && !strings.Contains(leads, controller) {
			_, err = etcdctl(ctx, s.Site, "del", cluster.KeyLeader)
			err = errors.Join(fmt.Errorf("the controller led as %s", leads), err)
		}
		return err
	}))
	s.must(s.Until(ctx, func() error {
		if s.leader(ctx) == storeLeader {
			return nil
		}
		members, err := etcdctl(ctx, s.Site, "member", "list")
		for line := range strings.Lines(members) { // "ID, started, NAME, ..."
			if f := strings.Split(line, ", "); len(f) > 2 && f[2] == storeLeader {
				_, err = etcdctl(ctx, s.Site, "move-leader", f[0])
			}
		}
		return errors.Join(fmt.Errorf("%s did not lead the store", storeLeader), err)
	}))
}
