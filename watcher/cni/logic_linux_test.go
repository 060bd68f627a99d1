package cni

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// TestAsk: an agent that is away is waited for, so long and no longer; one that
// refuses is asked once.
func TestAsk(t *testing.T) {
	refused := &local.Refusal{Code: local.CodeTaken, Text: "taken"}
	for name, tt := range map[string]struct {
		answers []error // the last one is for ever
		want    error
		asked   int
	}{
		"there":      {[]error{nil}, nil, 1},
		"comes back": {[]error{local.ErrNoAgent, errors.New("EOF"), nil}, nil, 3},
		"refuses":    {[]error{refused}, refused, 1},
		"away":       {[]error{local.ErrNoAgent}, local.ErrNoAgent, 1 + int(time.Second/pause) + 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				err := new(plugin).ask(t.Context(), time.Second, func(context.Context) error {
					asked++
					return tt.answers[min(asked, len(tt.answers))-1]
				})
				if !errors.Is(err, tt.want) || asked != tt.asked {
					t.Errorf("asked %d times: %v; want %d, %v", asked, err, tt.asked, tt.want)
				}
			})
		})
	}
}

// TestExplain: what the agent refuses has the code that tells a runtime what to do.
func TestExplain(t *testing.T) {
	for code, want := range map[local.Code]uint{
		local.CodeInvalid: 7, local.CodeNotFound: 7, local.CodeElsewhere: 100, local.CodeTaken: 101, local.CodeTarget: 102,
		local.CodeExhausted: 103, local.CodeUnavailable: 11, "newer": 999,
	} {
		e := explain("attach c1", &local.Refusal{Code: code, Text: "why", Hint: "do"})
		if d := cmp.Diff(&types.Error{Code: want, Msg: "attach c1: why", Details: "do"}, e); d != "" {
			t.Errorf("%s: %s", code, d)
		}
	}
	if e := explain("attach c1", context.DeadlineExceeded); e.Code != types.ErrTryAgainLater {
		t.Errorf("an agent that is too slow: %+v", e)
	}
}

// TestJudge: what STATUS says of what the agent tells.
func TestJudge(t *testing.T) {
	up := cluster.VPCStatus{Ready: true, Links: []cluster.Link{{Peer: "b", State: cluster.LinkUp}, {Peer: "c", State: cluster.LinkDown}}}
	cut := cluster.VPCStatus{Ready: true, Links: []cluster.Link{{Peer: "b", State: cluster.LinkDown}}}
	for name, tt := range map[string]struct {
		in   standing
		want uint // 0: nothing
	}{
		"well":          {standing{VPCs: map[string]cluster.VPCStatus{"red": up}}, 0},
		"alone":         {standing{VPCs: map[string]cluster.VPCStatus{"red": {Ready: true}}}, 0},
		"not here":      {standing{VPCs: map[string]cluster.VPCStatus{"blue": up}}, 50},
		"not ready":     {standing{VPCs: map[string]cluster.VPCStatus{"red": {Reason: "no"}}}, 51},
		"tunnels down":  {standing{VPCs: map[string]cluster.VPCStatus{"red": cut}}, 51},
		"store is away": {standing{StaleSince: cluster.At(time.Unix(1, 0)), VPCs: map[string]cluster.VPCStatus{"red": up}}, 50},
		"removed":       {standing{Left: true, VPCs: map[string]cluster.VPCStatus{"red": up}}, 51},
	} {
		t.Run(name, func(t *testing.T) {
			e := judge("red", tt.in)
			if (e == nil) != (tt.want == 0) || e != nil && e.Code != tt.want {
				t.Errorf("judge: %+v; want code %d", e, tt.want)
			}
		})
	}
}

// TestChained: what a plugin before this one has made is passed on, and indices are
// those of the whole.
func TestChained(t *testing.T) {
	c, err := readConfig([]byte(`{"cniVersion": "1.1.0", "name": "n", "vpc": "red", "prevResult": {"cniVersion": "1.1.0",
		"interfaces": [{"name": "lo", "sandbox": "/ns"}], "ips": [{"address": "127.0.0.1/8", "interface": 0}], "dns": {"domain": "example.org"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	f := new(fake)
	f.endpoints = map[string]*local.Attached{}
	r := resultOf(call{c, "c1", "/ns", "eth0"}, *f.make("e"))
	names := []string{}
	for _, i := range r.Interfaces {
		names = append(names, i.Name)
	}
	at := []int{}
	for _, ip := range r.IPs {
		at = append(at, *ip.Interface)
	}
	if d := cmp.Diff([]string{"lo", "host2", "eth0"}, names) + cmp.Diff([]int{0, 2, 2}, at) + cmp.Diff(types.DNS{Domain: "example.org"}, r.DNS); d != "" {
		t.Errorf("%+v: %s", r, d)
	}
	if old, err := r.GetAsVersion("0.2.0"); err != nil || old.Version() != "0.2.0" {
		t.Errorf("in version 0.2.0: %v, %v", old, err)
	}
}

// TestRoutes: a runtime is told of the routes that a VPC has for its gateway, and not of
// default ones; what it was told of is checked.
func TestRoutes(t *testing.T) {
	f := &fake{endpoints: map[string]*local.Attached{}}
	e := *f.make("e")
	to := netip.MustParsePrefix("192.168.0.0/16")
	e.Routes = []netip.Prefix{to}
	r := resultOf(call{device: "eth0"}, e)
	if len(r.Routes) != 1 || r.Routes[0].Dst.String() != to.String() || r.Routes[0].GW.String() != "10.0.0.1" {
		t.Errorf("routes %+v; want %s by 10.0.0.1 alone", r.Routes, to)
	}
	has := view{up: true, mac: e.MAC, addresses: e.Addresses, routes: []cluster.Route{{To: to, Via: e.Gateways[0]}}}
	c := call{device: "eth0"}
	c.previous = r
	if lacks := againstView(c, e, has); lacks != "" {
		t.Errorf("the namespace lacks %q", lacks)
	}
	has.routes = cluster.RoutesBy(e.Gateways, nil)
	if lacks := againstView(c, e, has); lacks != "there is no route to 192.168.0.0/16 by 10.0.0.1" {
		t.Errorf("the namespace lacks %q", lacks)
	}
}
