package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// cniCostWord makes this program a container runtime that measures its plugins.
const cniCostWord = "MESHVPC_TEST_CNI_COST"

// cniCost is what the runtime does: each network in turn adds and deletes a
// container whose namespace is there, named by network and number.
type cniCost struct {
	Bin, Cache string
	Networks   []string // configurations
	Count      int
}

// cniTimes are in seconds, by network.
type cniTimes struct{ Add, Del [][]float64 }

func (c cniCost) id(network, i int) string { return fmt.Sprintf("n%d-%d", network, i) }

// runCNICost reads a cniCost and writes cniTimes.
func runCNICost() error {
	var c cniCost
	if err := json.NewDecoder(os.Stdin).Decode(&c); err != nil {
		return err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{c.Bin}, c.Cache, nil)
	took := cniTimes{make([][]float64, len(c.Networks)), make([][]float64, len(c.Networks))}
	for i := range c.Count {
		for n, text := range c.Networks {
			list, err := libcni.NetworkConfFromBytes([]byte(text))
			if err != nil {
				return err
			}
			rt, begun := pod(c.id(n, i)), time.Now()
			if _, err := cni.AddNetworkList(context.Background(), list, rt); err != nil {
				return fmt.Errorf("add %s: %w", rt.ContainerID, err)
			}
			added := time.Now()
			if err := cni.DelNetworkList(context.Background(), list, rt); err != nil {
				return fmt.Errorf("delete %s: %w", rt.ContainerID, err)
			}
			took.Add[n] = append(took.Add[n], added.Sub(begun).Seconds())
			took.Del[n] = append(took.Del[n], time.Since(added).Seconds())
		}
	}
	return json.NewEncoder(os.Stdout).Encode(took)
}

// TestCNICost measures, if MESHVPC_MEASURE=1, how long ADD and DEL take on a host of
// three, in turn with the reference plugins bridge and host-local there. It reports,
// and judges nothing.
func TestCNICost(t *testing.T) {
	if os.Getenv("MESHVPC_MEASURE") == "" {
		t.Skip("it measures, with MESHVPC_MEASURE=1")
	}
	m := newPodNetwork(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	c := cniCost{Bin: t.TempDir(), Cache: t.TempDir(), Count: 200, Networks: []string{
		`{"cniVersion": "1.1.0", "name": "ours", "plugins": [{"type": "meshvpc", "vpc": "vpc1"}]}`,
		fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "reference", "plugins": [{"type": "bridge", "bridge": "ref0",
			"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.20.0.0/20"}], [{"subnet": "fd00:20::/64"}]]}}]}`, t.TempDir()),
	}}
	m.must(os.Symlink(binary, filepath.Join(c.Bin, "meshvpc")))
	for _, tool := range []string{"bridge", "host-local"} {
		path, err := exec.CommandContext(ctx, "go", "tool", "-n", tool).Output()
		m.must(err)
		m.must(os.Symlink(strings.TrimSpace(string(path)), filepath.Join(c.Bin, tool)))
	}
	host := m.hosts[1]
	for n := range c.Networks {
		names := []string{"netns-add"}
		for i := range c.Count {
			names = append(names, c.id(n, i))
		}
		m.must(m.Lab.Tamper(ctx, host, "", names...))
	}
	question, err := json.Marshal(c)
	m.must(err)
	var out, words bytes.Buffer
	self, err := os.Executable()
	m.must(err)
	code, err := m.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{self}, Env: append(os.Environ(), cniCostWord+"=1"),
		Stdin: bytes.NewReader(question), Stdout: &out, Stderr: &words})
	if err != nil || code != 0 {
		t.Fatalf("exit %d, %v: %s", code, err, words.String())
	}
	var took cniTimes
	m.must(json.Unmarshal(out.Bytes(), &took))
	for what, by := range map[string][][]float64{"ADD": took.Add, "DEL": took.Del} {
		ms := func(n int, q float64) float64 {
			s := slices.Sorted(slices.Values(by[n]))
			return 1000 * s[int(q*float64(len(s)-1))]
		}
		t.Logf("%s, n=%d each: p50 %.0f ms, reference %.0f (%.2f x); p99 %.0f ms, reference %.0f (%.2f x)", what, c.Count,
			ms(0, 0.5), ms(1, 0.5), ms(0, 0.5)/ms(1, 0.5), ms(0, 0.99), ms(1, 0.99), ms(0, 0.99)/ms(1, 0.99))
	}
	m.nothingOfPods(ctx)
}
