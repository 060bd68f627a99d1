package document

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
)

func TestParseEndpoint(t *testing.T) {
	auto := cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true}
	with := func(change func(*cluster.EndpointSpec)) cluster.EndpointSpec { s := auto; change(&s); return s }
	addr, addr6 := netip.MustParseAddr("10.10.11.5"), netip.MustParseAddr("fd00:11::5")
	for in, want := range map[string]cluster.EndpointSpec{
		"":                         auto,
		", ip: auto":               auto,
		", ip: none":               with(func(s *cluster.EndpointSpec) { s.Auto = false }),
		", ip: 10.10.11.5":         with(func(s *cluster.EndpointSpec) { s.Auto, s.IPs = false, []netip.Addr{addr} }),
		", ip: [10.10.11.5, auto]": with(func(s *cluster.EndpointSpec) { s.IPs = []netip.Addr{addr} }),
		", ip: [10.10.11.5, 'fd00:11::5'], mac: '02:00:00:00:00:05', node: a": with(func(s *cluster.EndpointSpec) {
			s.Auto, s.IPs, s.MAC, s.Node = false, []netip.Addr{addr, addr6}, cluster.MAC{2, 0, 0, 0, 0, 5}, "a"
		}),
		", mode: stateless, place: [n2], exclusive: strict, on_isolation: fence": with(func(s *cluster.EndpointSpec) {
			s.Failover = cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"n2"}, Exclusive: cluster.ExclusiveStrict, OnIsolation: cluster.IsolationFence}
		}),
		", mode: stateless, place: [n2], exclusive: receivers, on_isolation: keep": with(func(s *cluster.EndpointSpec) {
			s.Failover = cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"n2"}}
		}),
		", mode: stateless, place: [dc=gold, n2], failback: auto, apart: web": with(func(s *cluster.EndpointSpec) {
			s.Failover = cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"dc=gold", "n2"}, Failback: cluster.FailbackAuto, Apart: "web"}
		}),
		", mode: stateful, place: [a, b], workload: pg, open_early: true, hook_timeout: 1m30s, check: exec, check_every: 2s, check_misses: 5": with(func(s *cluster.EndpointSpec) {
			s.Failover = cluster.Failover{Mode: cluster.ModeStateful, Place: cluster.Place{"a", "b"}, Workload: "pg", OpenEarly: true,
				HookTimeout: cluster.Period(90 * time.Second), Check: cluster.CheckExec, CheckEvery: cluster.Period(2 * time.Second), CheckMisses: 5}
			s.SetNeeds()
		}),
		", mode: stateful, place: [a], workload: pg, on_isolation: fence": with(func(s *cluster.EndpointSpec) {
			s.Failover = cluster.Failover{Mode: cluster.ModeStateful, Place: cluster.Place{"a"}, Workload: "pg", OnIsolation: cluster.IsolationFence}
			s.SetNeeds()
		}),
	} {
		f, err := Parse("f", []byte("{kind: Endpoint, name: web1, vpc: blue"+in+"}"))
		if err != nil || len(f.Endpoints) != 1 {
			t.Errorf("%s: %v, %v", in, f, err)
			continue
		}
		if d := cmp.Diff(f.Endpoints[0].Spec, want, compare); d != "" {
			t.Errorf("%s (-got +want):\n%s", in, d)
		}
	}
}

func TestParseEndpointMistakes(t *testing.T) {
	for in, want := range map[string]string{
		"kind: Endpoint\nvpc: blue\n":                                                                                             "f:1:1: name is missing",
		"kind: Endpoint\nname: web1\n":                                                                                            "f:1:1: vpc is missing",
		"kind: Endpoint\nname: Web\nvpc: blue\n":                                                                                  `f:2:7: endpoint name "Web": want 1 to 63 of a-z, 0-9 and -, not beginning or ending with -`,
		"kind: Endpoint\nname: web1\nvpc: Blue\n":                                                                                 `f:3:6: invalid VPC name "Blue"`,
		"kind: Endpoint\nname: web1\nvpc: blue\nips: auto\n":                                                                      `f:4:1: unknown field "ips": did you mean "ip"?`,
		"kind: Endpoint\nname: web1\nvpc: blue\nip: 10.10.11\n":                                                                   `f:4:5: ip: want auto, none or an address, got "10.10.11"`,
		"kind: Endpoint\nname: web1\nvpc: blue\nip: [auto, none]\n":                                                               `f:4:12: ip: want auto, none or an address, got "none"`,
		"kind: Endpoint\nname: web1\nvpc: blue\nip: []\n":                                                                         `f:4:5: ip: want auto, none or addresses, got an empty list`,
		"kind: Endpoint\nname: web1\nvpc: blue\nip: [10.0.0.1, 10.0.0.2]\n":                                                       `f:4:5: ip: invalid addresses: 10.0.0.2 is a second one of its family`,
		"kind: Endpoint\nname: web1\nvpc: blue\nip: 239.1.1.1\n":                                                                  `f:4:5: ip: invalid address "239.1.1.1": no workload can have it`,
		"kind: Endpoint\nname: web1\nvpc: blue\nmac: '01:00:00:00:00:05'\n":                                                       `f:4:6: mac: 01:00:00:00:00:05 is a multicast address, which no workload can have`,
		"kind: Endpoint\nname: web1\nvpc: blue\nmac: 5\n":                                                                         `f:4:6: mac: want a MAC like 02:00:00:00:00:05, got 5`,
		"kind: Endpoint\nname: web1\nvpc: blue\nnode: A\n":                                                                        `f:4:7: node: want the name of a node, got "A"`,
		"kind: Endpoint\nname: web1\nvpc: blue\nplace: [dc=gold]\n":                                                               `f:4:8: place: say by mode what becomes of the workload: stateless, vip or stateful`,
		"kind: Endpoint\nname: web1\nvpc: blue\napart: web\n":                                                                     `f:4:8: apart: there is no mode, so it never leaves`,
		"kind: Endpoint\nname: web1\nvpc: blue\nmode: stateless\n":                                                                `f:4:7: mode: say by place where it may run`,
		"kind: Endpoint\nname: web1\nvpc: blue\nmode: active\nplace: [dc=gold]\n":                                                 `f:4:7: mode: want stateless, vip or stateful, got "active"`,
		"{kind: Endpoint, name: a, vpc: blue, workload: pg}":                                                                      `f:1:48: workload: say by mode and place where it may run`,
		"{kind: Endpoint, name: a, vpc: blue, mode: stateless, place: [n], workload: pg}":                                         `f:1:1: invalid failover: in mode stateless its workload may run twice`,
		"{kind: Endpoint, name: a, vpc: blue, mode: vip, place: [n], workload: pg, may_run_twice: true}":                          `f:1:1: invalid failover: in mode vip there is no workload`,
		"{kind: Endpoint, name: a, vpc: blue, mode: stateful, place: [n]}":                                                        `f:1:1: invalid mode stateful: it has a workload`,
		"{kind: Endpoint, name: a, vpc: blue, mode: stateful, place: [n], workload: pg, exclusive: receivers}":                    `f:1:91: exclusive: in mode stateful it is strict`,
		"{kind: Endpoint, name: a, vpc: blue, mode: stateful, place: [n], workload: pg, hook_timeout: 1ms}":                       `f:1:94: hook_timeout: want a time of 1s to 10m, like 30s, got "1ms"`,
		"kind: Endpoint\nname: web1\nvpc: blue\nmode: stateless\nplace: [a,b=]":                                                   `f:5:11: place: want the name of a node, dc=NAME or label=KEY=VALUE, got "b="`,
		"{kind: Endpoint, name: a, vpc: blue, mode: stateless, place: [n], failback: window=Sat}":                                 `f:1:77: failback: want never, auto or window=TIME, such as window=Sat 02:00-04:00 UTC, got "window=Sat"`,
		"kind: Endpoint\nname: web1\nvpc: blue\nfailback: auto":                                                                   `f:4:11: failback: there is no mode, so it never leaves`,
		"kind: Endpoint\nname: web1\nvpc: blue\nexclusive: strict":                                                                `f:4:12: exclusive: there is no mode, so it never has another node`,
		"kind: Endpoint\nname: web1\nvpc: blue\nexclusive: both":                                                                  `f:4:12: exclusive: want receivers or strict, got "both"`,
		"{kind: Endpoint, name: a, vpc: blue, mode: stateless, place: [n], on_isolation: fence}":                                  `f:1:81: on_isolation: it takes exclusive strict`,
		"{kind: Endpoint, name: a, vpc: blue, node: n, mode: stateless, place: [n]}":                                              `f:1:44: node: it has places to go to, so it cannot be bound to n`,
		"- {kind: Endpoint, name: a, vpc: blue}\n- {kind: Endpoint, name: a, vpc: red}\n- {kind: Endpoint, name: a, vpc: blue}\n": `f:3:26: Endpoint "a" of VPC blue is in the file twice, first on line 1`,
		"- {kind: Endpoint, name: a, vpc: blue, ip: 10.0.0.1}\n- {kind: Endpoint, name: b, vpc: blue, ip: 10.0.0.1}\n":            `f:2:44: ip 10.0.0.1 of VPC blue is in the file twice, first on line 1`,
		"- {kind: Endpoint, name: a, vpc: blue, mac: '02:00:00:00:00:05'}\n- {kind: Endpoint, name: b, vpc: blue, mac: '02:00:00:00:00:05'}\n- {kind: VPC, name: a}\n": `f:2:45: mac 02:00:00:00:00:05 of VPC blue is in the file twice, first on line 1`,
	} {
		_, err := Parse("f", []byte(in))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s got %v, want %s", in, err, want)
		}
	}
}

func TestPlanEndpoints(t *testing.T) {
	endpoints := func(text string) (File, map[EndpointName]*cluster.EndpointSpec) {
		t.Helper()
		f, err := Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		specs := map[EndpointName]*cluster.EndpointSpec{}
		for i := range f.Endpoints {
			specs[f.Endpoints[i].EndpointName] = &f.Endpoints[i].Spec
		}
		return f, specs
	}
	const two = "[{kind: VPC, name: blue}, {kind: Endpoint, name: a, vpc: blue}, {kind: Endpoint, name: b, vpc: blue, node: n}, {kind: Endpoint, name: a, vpc: red}]"
	for name, tt := range map[string]struct {
		was, file string
		change    func(*cluster.EndpointSpec) // of a of blue
		prune     bool
		want      string
	}{
		"new":       {was: "[]", file: "{kind: Endpoint, name: a, vpc: blue, node: n}", want: "create Endpoint a of VPC blue\n  ip:   auto\n  node: n\n"},
		"the same":  {was: two, file: "{kind: Endpoint, name: a, vpc: blue}", want: "unchanged Endpoint a of VPC blue\n"},
		"changed":   {was: two, file: "{kind: Endpoint, name: b, vpc: blue, ip: [10.0.0.1, auto]}", want: "change Endpoint b of VPC blue\n  ip:   auto → 10.0.0.1, auto\n  node: n → unset\n"},
		"pruned":    {was: two, file: "{kind: VPC, name: blue}", prune: true, want: "delete Endpoint a of VPC blue\n  ip: auto\ndelete Endpoint b of VPC blue\n  ip:   auto\n  node: n\n"},
		"no prune":  {was: two, file: "{kind: VPC, name: blue}", want: ""},
		"not named": {was: two, file: "{kind: Endpoint, name: b, vpc: blue, node: n}", prune: true, want: "unchanged Endpoint b of VPC blue\n"},
		"a node's":  {was: two, file: "[{kind: VPC, name: blue}, {kind: Endpoint, name: b, vpc: blue, node: n}]", prune: true, change: func(s *cluster.EndpointSpec) { s.Requester = "n" }, want: "unchanged Endpoint b of VPC blue\n"},
		"named, a node's": {was: two, file: "{kind: Endpoint, name: a, vpc: blue}", change: func(s *cluster.EndpointSpec) { s.Requester = "n" },
			want: `f:1:1: endpoint "a" of VPC blue was made for a workload of n: choose another name`},
		"being deleted": {was: two, file: "{kind: Endpoint, name: a, vpc: blue}", change: func(s *cluster.EndpointSpec) { s.State = cluster.EndpointDeleting },
			want: `f:1:1: endpoint "a" of VPC blue is being deleted: wait until "meshvpc endpoint list" no longer shows it`},
	} {
		t.Run(name, func(t *testing.T) {
			_, current := endpoints(tt.was)
			if tt.change != nil {
				tt.change(current[EndpointName{"blue", "a"}])
			}
			f, _ := endpoints(tt.file)
			steps, err := PlanEndpoints(f, current, tt.prune)
			var b strings.Builder
			for _, s := range steps {
				b.WriteString(s.String())
			}
			if err != nil {
				b.WriteString(err.Error())
			}
			if got := b.String(); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func anyOf(t *rapid.T) string {
	return rapid.SampledFrom([]string{"no", "true", "e1", "0a", "12", "n-1"}).Draw(t, "name")
}

func TestParseOfFormatEndpointIsIdentity(t *testing.T) {
	schema := mustCompile(t)
	rapid.Check(t, func(t *rapid.T) {
		name := EndpointName{"blue", anyOf(t)}
		spec := newEndpoint()
		spec.Auto = rapid.Bool().Draw(t, "auto")
		if rapid.Bool().Draw(t, "fixed") {
			spec.IPs = append(spec.IPs, netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 255).Draw(t, "ip")), 0, 1}))
		}
		if rapid.Bool().Draw(t, "fixed MAC") {
			spec.MAC = cluster.MAC{2, byte(rapid.IntRange(0, 255).Draw(t, "mac"))}
		}
		switch rapid.IntRange(0, 2).Draw(t, "where") {
		case 1:
			spec.Node = anyOf(t)
		case 2:
			spec.Failover = cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"dc=gold", cluster.Selector(anyOf(t))}}
			if rapid.Bool().Draw(t, "back") {
				spec.Failover.Failback = cluster.FailbackAuto
			} else if rapid.Bool().Draw(t, "in a window") {
				spec.Failover.FailbackWindow, _ = cluster.ParseWindow("Mon-Fri 22:00-06:00 UTC")
			}
			if rapid.Bool().Draw(t, "workload") {
				spec.Failover.Workload, spec.Failover.Check = anyOf(t), cluster.CheckExec
				if spec.Failover.MayRunTwice = rapid.Bool().Draw(t, "twice"); !spec.Failover.MayRunTwice {
					spec.Failover.Mode = cluster.ModeStateful
				}
				spec.Failover.HookTimeout = cluster.Period(rapid.IntRange(1, 600).Draw(t, "timeout")) * cluster.Period(time.Second)
				spec.Failover.CheckMisses = rapid.IntRange(0, 100).Draw(t, "misses")
				spec.SetNeeds()
			}
		}
		text, err := FormatEndpoint(name, &spec)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(EndpointObject(name, &spec))
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range [][]byte{text, data} {
			if err := validate(schema, in); err != nil {
				t.Fatalf("%v of\n%s", err, in)
			}
			got, err := Parse("f", in)
			if err != nil {
				t.Fatalf("%v of\n%s", err, in)
			}
			if d := cmp.Diff(got.Endpoints[0].Spec, spec, compare); d != "" {
				t.Fatalf("(-got +want):\n%sof\n%s", d, in)
			}
			steps, err := PlanEndpoints(got, map[EndpointName]*cluster.EndpointSpec{name: &spec}, true)
			if err != nil || len(steps) != 1 || steps[0].Action != Unchanged {
				t.Fatalf("plan: %v, %v", steps, err)
			}
		}
	})
}

// The table knows every field of an endpoint's spec that operators may state.
func TestEndpointTableIsWhole(t *testing.T) {
	want := []string{"ips", "auto", "mac", "node", "failover"}                     // the first two are ip, the last all from mode on
	notStated := []string{"needs", "state", "created", "requester", "forced_from"} // of the record's life
	var got []string
	for f := range reflect.TypeFor[cluster.EndpointSpec]().Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); !slices.Contains(notStated, name) {
			got = append(got, name)
		}
	}
	if !slices.Equal(got, want) || !slices.Equal(endpointFields.names(), []string{"ip", "mac", "node", "mode", "place", "failback", "apart", "exclusive", "on_isolation",
		"workload", "may_run_twice", "open_early", "hook_timeout", "check", "check_every", "check_misses"}) {
		t.Errorf("the table has %v, the spec %v", endpointFields.names(), got)
	}
}
