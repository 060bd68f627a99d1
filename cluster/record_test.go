package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	addr4 = netip.MustParseAddr("192.0.2.1")
	addr6 = netip.MustParseAddr("2001:db8::1")
	mac   = MAC{0x0a, 0x6d, 0, 0, 0, 1}
	cmpIP = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	cmpNW = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
)

// examples are valid records, one for each type.
func examples() map[string]Record {
	when := At(time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC))
	network := Networks{IPv4: netip.MustParsePrefix("10.10.11.0/24")}
	return map[string]Record{
		KeyConfig: &Config{Cluster: "home", ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: DefaultVNIRange, Encryption: "none"},
		KeyNode("a"): &Node{ID: "n1", Datacenter: "gold", State: NodeActive, Agent: true, Joined: when, Key: strings.Repeat("0c", 32),
			Labels: map[string]string{"rack": "a.1"}},
		KeyLive("a"): &Live{NodeID: "n1", BootID: "b-1", Incarnation: "i", Counter: 7},
		KeyVPCSpec("blue"): &VPCSpec{State: VPCActive, Members: "all", PeerNetwork: DefaultPeerNetwork, Network: network,
			Exclude: []netip.Addr{netip.MustParseAddr("10.100.0.7")}, VNI: 7, MTU: 1400, Protect: true, Created: when,
			Transport: Multicast, MulticastGroup: netip.MustParseAddr("239.1.1.1")},
		KeyVPCNet("blue"): &VPCNet{Phase: PhaseActive, VNI: 7, MTU: 1430, PeerNetwork: DefaultPeerNetwork,
			Refused: map[string]string{"b": "underlay MTU 1300 - 70 < 1430"}},
		KeyVPCPing("blue"): &PingRequest{ID: "p1", Count: 3, Size: 1400},
		KeyMember("blue", "a"): &Member{NodeID: "n1", Datacenter: "gold", VTEP: netip.MustParseAddr("10.100.0.1"),
			UnderlayIPv4: addr4, UnderlayIPv6: addr6, Transport: Multipoint},
		KeyHostVPC("a", "blue"):       &HostVPC{State: AssignedMember},
		KeyHostLink("a", "blue", "b"): &HostLink{VNI: 8, Use: LinkPreparing},
		KeyAllocVNI(8):                &Allocation{Holder: PairOf("blue", "a", "b").String()},
		KeyNodeStatus("a"): &NodeStatus{NodeID: "n1", OS: "linux", Version: "1", Capabilities: []string{"multipoint"}, Problems: []string{"no disk"}, Notes: []string{"busy"},
			Underlay: Underlay{IPv4: &UnderlayAddress{Bind: addr4, Advertise: addr4, Device: "eth0", MTU: 1500},
				IPv6: &UnderlayAddress{Bind: addr6, Advertise: addr6, Device: "eth0", MTU: 1500}}},
		KeyVPCStatus("a", "blue"): &VPCStatus{NodeID: "n1", State: HostMember, Ready: true, VNI: 7, MTU: 1430, At: when,
			VTEP: netip.MustParseAddr("10.100.0.1"), Links: []Link{{Peer: "b", State: LinkUp, RTT: 0.25, VNI: 8, Use: LinkActive}}},
		KeyVPCFind("blue"):              &FindRequest{ID: "f1", MAC: MAC{2, 0, 0, 0, 0, 1}},
		KeyFindResult("a", "blue"):      &FindResult{ID: "f1", Device: "veth12"},
		KeyPingResult("a", "blue"):      &PingResult{ID: "p1", Peers: []PeerPing{{To: "b", Sent: 3, Received: 2, RTT: 0.5}}},
		KeyAllocVNI(7):                  &Allocation{Holder: "blue", Released: true},
		KeyAllocVTEP("blue", addr4):     &Allocation{Holder: "a"},
		KeyAllocIP("blue", addr4):       &Allocation{Holder: "web1"},
		KeyAllocMAC("blue", mac):        &Allocation{Holder: "web1"},
		KeyEndpointSpec("blue", "web1"): &EndpointSpec{State: EndpointActive, IPs: []netip.Addr{addr6}, Auto: true, MAC: mac, Node: "a", Requester: "b", ForcedFrom: InEpoch{"b", 7}, Created: when},
		KeyEndpointSpec("blue", "web2"): &EndpointSpec{State: EndpointActive, Auto: true, Created: when, Failover: Failover{Mode: ModeStateless, Place: Place{"dc=gold", "a"}, Failback: FailbackAuto, Exclusive: ExclusiveStrict, OnIsolation: IsolationFence, MoveTo: InEpoch{"c", 3}}},
		KeyEndpointSpec("blue", "db"): &EndpointSpec{Needs: versionWorkload, State: EndpointActive, Auto: true, Created: when, Failover: Failover{Mode: ModeStateful, Place: Place{"a", "b"}, Workload: "pg", OpenEarly: true,
			HookTimeout: Period(90 * time.Second), Check: CheckExec, CheckEvery: Period(2 * time.Second), CheckMisses: 5}},
		KeyEndpointOwn("blue", "web1"): &EndpointOwn{State: OwnAssigned, Reason: "r", IPs: []netip.Addr{addr4, addr6}, MAC: mac, Node: "a", Era: 1, Epoch: 2,
			Moved: &Moved{From: "b", Why: "silent", At: when, Unfenced: []string{"c"}, Changes: 2, Failed: []string{"d"}}, To: "c", Restored: true},
		KeyEndpointStatus("a", "blue", "web1"): &EndpointStatus{NodeID: "n1", State: PortFailed, Reason: "r", Device: "ve1", Era: 1, Epoch: 2, At: when},
		KeyEndpointStatus("a", "blue", "db"): &EndpointStatus{NodeID: "n1", State: PortStandby, Era: 1, Epoch: 2, At: when,
			Workload: &WorkloadStatus{State: WorkloadStopping, Reason: "stop: exit status 1", Era: 1, Epoch: 1}},
		KeyRequest("a", "blue", "web1"): &Request{NodeID: "n1", Want: WantAttach, Create: true, At: when},
		KeyMACStatus("a", "blue", mac):  &MACStatus{NodeID: "n1", Port: "ve1", Sequence: 2},
		KeyPublished("blue", mac):       &PublishedMAC{Node: "a", Port: "ve1", Sequence: 2, Since: when, Moves: 2, Moving: when, Duplicate: &Duplicate{"b", "ve2", when}},
		KeyEndpointHold("blue", "web1"): &Hold{Why: "disk", Since: when},
		KeyJudgement:                    &Judgement{SafeMode: "too many", Nodes: []Judged{{Node: "a", Class: ClassDown, Why: "silent", Since: when}}},
		KeyFence("a"):                   &Fence{NodeID: "n1", Underlay: []netip.Addr{netip.MustParseAddr("2001:db8::1")}, Why: "silent", Since: when},
		KeyVerdicts("a"):                &Verdicts{NodeID: "n1", Counter: 7, Suspects: []Suspect{{Node: "b", Kernel: true}}},
		KeyFenceStatus("a"):             &FenceStatus{NodeID: "n1", Revision: 12},
		KeyServer("a"):                  &Server{Datacenter: "gold", Address: "[2001:db8::1]:2379", Voter: true, Joined: when},
		KeyToken("0a1b2c3d4e"):          &Token{Role: TokenNode, Hash: strings.Repeat("0a", 32), Uses: 1, Created: when, Expires: At(when.Add(time.Hour)), By: "user:admin"},
		KeyUser("alice"):                &User{Role: UserViewer, Key: strings.Repeat("0b", 32), Created: when, By: "user:admin"},
		KeyNodeTrust("a"):               &Trusting{CAs: []string{strings.Repeat("0d", 16)}, Signer: strings.Repeat("0d", 16), At: when},
		KeyServerTrust("a"):             &Trusting{CAs: []string{strings.Repeat("0d", 16)}, Signer: strings.Repeat("0d", 16), At: when},
		KeyLeader:                       &Leader{Name: "a", Since: when},
	}
}

func TestEncodeDecode(t *testing.T) {
	for key, r := range examples() {
		t.Run(key, func(t *testing.T) {
			raw, err := Encode(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Decode(key, raw)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r, got, cmpIP, cmpNW); diff != "" {
				t.Errorf("after a round trip (-want +got):\n%s", diff)
			}
			if strings.Contains(string(raw), `\u003c`) {
				t.Errorf("not readable: %s", raw)
			}
			again, err := Encode(got, raw)
			if err != nil || string(again) != string(raw) {
				t.Errorf("encoded again: %s, %v; want %s", again, err, raw)
			}
		})
	}
}

// withUnknown adds a field to every object of v, lists' elements excepted.
func withUnknown(v any, value any) any {
	o, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out := map[string]any{"zz_unknown": value}
	for k, x := range o {
		out[k] = withUnknown(x, value)
	}
	return out
}

func TestEncodeKeepsUnknownFields(t *testing.T) {
	mapFields := map[string]bool{KeyNode("a"): true, KeyVPCNet("blue"): true} // a foreign key in a map is an entry of it
	for key, r := range examples() {
		if mapFields[key] {
			continue
		}
		t.Run(key, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				raw, err := Encode(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				var fields any
				mustUnmarshal(t, raw, &fields)
				want := withUnknown(fields, rapid.OneOf(
					rapid.Just[any](nil), rapid.Map(rapid.String(), func(s string) any { return strings.ToValidUTF8(s, "") }),
					rapid.Just[any](map[string]any{"a": []any{1.0, "<"}})).Draw(t, "value"))
				prior, err := json.Marshal(want)
				if err != nil {
					t.Fatal(err)
				}
				out, err := Encode(r, prior)
				if err != nil {
					t.Fatal(err)
				}
				var got any
				mustUnmarshal(t, out, &got)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("fields (-want +got):\n%s", diff)
				}
				back, err := Decode(key, out)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(r, back, cmpIP, cmpNW); diff != "" {
					t.Fatalf("known fields (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func mustUnmarshal(t *rapid.T, b []byte, v any) {
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
}

func TestEncodePrior(t *testing.T) {
	for name, tt := range map[string]struct {
		prior, want string
		err         error
	}{
		"none":                     {prior: "", want: `{"state":"member"}`},
		"garbage":                  {prior: "{", want: `{"state":"member"}`},
		"no object":                {prior: `["x"]`, want: `{"state":"member"}`},
		"null":                     {prior: `null`, want: `{"state":"member"}`},
		"known only":               {prior: `{"state":"leaving"}`, want: `{"state":"member"}`},
		"known in another case":    {prior: `{"State":"leaving","ſtate":"leaving"}`, want: `{"state":"member"}`},
		"unknown":                  {prior: `{"state":"leaving","x":{"y":1}}`, want: `{"state":"member","x":{"y":1}}`},
		"needs this version":       {prior: `{"needs":2,"x":1}`, want: `{"state":"member","x":1}`},
		"needs a newer":            {prior: `{"needs":9,"state":"member"}`, err: ErrNewer},
		"needs a much newer":       {prior: `{"needs":9007199254740993}`, err: ErrNewer},
		"larger than any record":   {prior: `{"x":"` + strings.Repeat("x", MaxRecord) + `"}`, err: ErrInvalid},
		"the omitted stay omitted": {prior: `{"needs":0}`, want: `{"state":"member"}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Encode(&HostVPC{State: AssignedMember}, []byte(tt.prior))
			if string(got) != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("Encode = %.100s, %v; want %s, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	key := KeyHostVPC("a", "blue")
	for name, tt := range map[string]struct {
		key, value string
		err        error
	}{
		"unknown key":        {Root + "x", `{}`, ErrUnknownKey},
		"empty":              {key, ``, ErrInvalid},
		"null":               {key, `null`, ErrInvalid},
		"a list":             {key, `[]`, ErrInvalid},
		"a string":           {key, `"member"`, ErrInvalid},
		"cut short":          {key, `{"state":"mem`, ErrInvalid},
		"two values":         {key, `{"state":"member"} {}`, ErrInvalid},
		"newer":              {key, `{"needs":9,"state":{}}`, ErrNewer},
		"newer and invalid":  {key, `{"needs":9,"state":"x"}`, ErrNewer},
		"needs no number":    {key, `{"needs":"2","state":"member"}`, ErrInvalid},
		"needs less than 0":  {key, `{"needs":-1,"state":"member"}`, ErrInvalid},
		"needs beyond int64": {key, `{"needs":1e30,"state":"member"}`, ErrInvalid},
		"state unknown":      {key, `{"state":"gone"}`, ErrInvalid},
		"state missing":      {key, `{}`, ErrInvalid},
		"deep":               {key, strings.Repeat(`{"a":`, 20000), ErrInvalid},
		"too large":          {key, `{"state":"member","x":"` + strings.Repeat("x", MaxRecord) + `"}`, ErrInvalid},
		"address with zone":  {KeyMember("blue", "a"), `{"node_id":"n","vtep":"10.0.0.1","underlay_ipv6":"fe80::1%eth0","transport":"multipoint"}`, ErrInvalid},
		"address 4in6":       {KeyMember("blue", "a"), `{"node_id":"n","vtep":"::ffff:10.0.0.1","underlay_ipv4":"192.0.2.1","transport":"multipoint"}`, ErrInvalid},
		"year 10000":         {KeyLeader, `{"name":"a","since":"9999-12-31T23:59:59-01:00"}`, ErrInvalid},
		"control characters": {KeyLeader, `{"name":"a\u001b[31m","since":""}`, ErrInvalid},
		"RTT beyond float64": {KeyVPCStatus("a", "blue"), `{"state":"member","links":[{"peer":"b","state":"up","rtt_ms":1e999}]}`, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := Decode(tt.key, []byte(tt.value)); !errors.Is(err, tt.err) || r != nil {
				t.Errorf("Decode = %v, %v; want %v", r, err, tt.err)
			}
		})
	}
}

// TestValidate breaks one field after another of valid records.
func TestValidate(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	lot := make([]string, maxFew+1)
	prefix := netip.MustParsePrefix
	many := map[string]uint64{}
	for i := range mostReasons + 1 {
		many[fmt.Sprint("r", i)] = 1
	}
	type breaks map[string]func()
	ex := func(key string) Record { return examples()[key] }
	cfg, node, live := ex(KeyConfig).(*Config), ex(KeyNode("a")).(*Node), ex(KeyLive("a")).(*Live)
	spec, net := ex(KeyVPCSpec("blue")).(*VPCSpec), ex(KeyVPCNet("blue")).(*VPCNet)
	want, own := ex(KeyEndpointSpec("blue", "web1")).(*EndpointSpec), ex(KeyEndpointOwn("blue", "web1")).(*EndpointOwn)
	port, ask := ex(KeyEndpointStatus("a", "blue", "web1")).(*EndpointStatus), ex(KeyRequest("a", "blue", "web1")).(*Request)
	ping, result := ex(KeyVPCPing("blue")).(*PingRequest), ex(KeyPingResult("a", "blue")).(*PingResult)
	find, found := ex(KeyVPCFind("blue")).(*FindRequest), ex(KeyFindResult("a", "blue")).(*FindResult)
	member, assigned := ex(KeyMember("blue", "a")).(*Member), ex(KeyHostVPC("a", "blue")).(*HostVPC)
	ns, vs := ex(KeyNodeStatus("a")).(*NodeStatus), ex(KeyVPCStatus("a", "blue")).(*VPCStatus)
	alloc, server, leader := ex(KeyAllocVNI(7)).(*Allocation), ex(KeyServer("a")).(*Server), ex(KeyLeader).(*Leader)
	claim, published := ex(KeyMACStatus("a", "blue", mac)).(*MACStatus), ex(KeyPublished("blue", mac)).(*PublishedMAC)
	links := func(l Link) { vs.Links = []Link{l} }
	pings := func(p PeerPing) { result.Peers = []PeerPing{p} }
	for _, tt := range []struct {
		r Record
		breaks
	}{
		{cfg, breaks{
			"id empty": func() { cfg.ID = "" }, "id long": func() { cfg.ID = long }, "id odd": func() { cfg.ID = "a b" },
			"era 0": func() { cfg.Era = 0 }, "era 2^53": func() { cfg.Era = 1 << 53 }, "port": func() { cfg.UnderlayPort = 0 },
			"range": func() { cfg.VNIs = VNIRange{9, 8} }, "name": func() { cfg.Cluster = "a\n" }, "encryption": func() { cfg.Encryption = "wireguard" },
		}},
		{node, breaks{
			"id": func() { node.ID = "" }, "datacenter": func() { node.Datacenter = "Gold" }, "state": func() { node.State = "" },
			"label key": func() { node.Labels = map[string]string{"a b": "c"} }, "label value": func() { node.Labels = map[string]string{"a": ""} },
			"labels": func() {
				node.Labels = map[string]string{}
				for i := range maxFew + 1 {
					node.Labels[strings.Repeat("a", i+1)[:min(i+1, 63)]+string(rune('a'+i%26))] = "v"
				}
			},
		}},
		{want, breaks{
			"state": func() { want.State = "" }, "MAC": func() { want.MAC[0] |= 1 }, "node": func() { want.Node = "A" },
			"two of a family": func() { want.IPs = []netip.Addr{addr4, addr4.Next()} }, "multicast": func() { want.IPs = []netip.Addr{netip.MustParseAddr("239.1.1.1")} },
			"no address": func() { want.IPs = []netip.Addr{{}} }, "requester": func() { want.Requester = "A" },
			"forced from nobody": func() { want.ForcedFrom.Node = "" }, "forced epoch": func() { want.ForcedFrom.Epoch = 1 << 53 },
		}},
		{port, breaks{
			"id": func() { port.NodeID = "" }, "state": func() { port.State = "" }, "reason": func() { port.Reason = long }, "device": func() { port.Device = "\n" },
			"era": func() { port.Era = -1 }, "epoch": func() { port.Epoch = 1 << 53 },
			"dropped for": func() { port.Dropped = map[string]uint64{"\x1b": 1} }, "dropped": func() { port.Dropped = many },
		}},
		{ask, breaks{
			"id": func() { ask.NodeID = "" }, "want": func() { ask.Want = "" }, "deletes and creates": func() { ask.Want = WantDelete },
		}},
		{own, breaks{
			"state": func() { own.State = "" }, "no MAC": func() { own.MAC = MAC{} }, "MAC": func() { own.MAC[0] |= 1 }, "no node": func() { own.Node = "" },
			"node": func() { own.Node = "A" }, "a node, unplaced": func() { own.State = OwnUnplaced }, "era": func() { own.Era = -1 },
			"epoch": func() { own.Epoch = 1 << 53 }, "reason": func() { own.Reason = "\n" }, "address": func() { own.IPs = append(own.IPs, addr6.Next()) },
			"pending with a bad MAC": func() { own.State, own.Node, own.MAC = OwnPending, "", MAC{1} },
		}},
		{live, breaks{
			"id": func() { live.NodeID = "" }, "boot id": func() { live.BootID = "\n" }, "incarnation": func() { live.Incarnation = long },
			"counter below 0": func() { live.Counter = -1 }, "counter 2^53": func() { live.Counter = 1 << 53 },
		}},
		{spec, breaks{
			"state": func() { spec.State = "gone" }, "members": func() { spec.Members = "" }, "VNI": func() { spec.VNI = MaxVNI + 1 },
			"MTU low": func() { spec.MTU = MinMTU - 1 }, "MTU high": func() { spec.MTU = MaxMTU + 1 }, "MTU below 0": func() { spec.MTU = -1 },
			"no network": func() { spec.PeerNetwork = netip.Prefix{} }, "host bits": func() { spec.PeerNetwork = prefix("10.100.0.1/16") },
			"multicast": func() { spec.PeerNetwork = prefix("224.1.0.0/16") }, "holds multicast": func() { spec.PeerNetwork = prefix("128.0.0.0/1") },
			"loopback": func() { spec.PeerNetwork = prefix("127.1.0.0/16") }, "link-local": func() { spec.PeerNetwork = prefix("fe80::/64") },
			"unspecified": func() { spec.PeerNetwork = prefix("::/0") }, "4in6": func() { spec.PeerNetwork = netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104) },
			"overlap":     func() { spec.Network.IPv4 = prefix("10.100.7.0/24") },
			"odd network": func() { spec.Network.IPv4 = prefix("10.10.11.1/24") },
			"exclude":     func() { spec.Exclude = []netip.Addr{addr4} }, "exclude nothing": func() { spec.Exclude = []netip.Addr{{}} },
			"excludes": func() { spec.Exclude = make([]netip.Addr, maxPeers+1) },
		}},
		{net, breaks{
			"phase": func() { net.Phase = "" }, "VNI": func() { net.VNI = 0 }, "MTU": func() { net.MTU = 0 }, "reason": func() { net.Reason = long },
			"pending VNI": func() { net.Phase, net.VNI = PhasePending, MaxVNI+1 }, "pending MTU": func() { net.Phase, net.MTU = PhasePending, -1 },
			"refused name": func() { net.Refused = map[string]string{"A": ""} }, "refused text": func() { net.Refused = map[string]string{"a": "\x07"} },
			"network": func() { net.PeerNetwork = netip.Prefix{} },
		}},
		{ping, breaks{
			"id": func() { ping.ID = "" }, "count 0": func() { ping.Count = 0 }, "count": func() { ping.Count = MaxPingCount + 1 },
			"size below 0": func() { ping.Size = -1 }, "size": func() { ping.Size = MaxPingSize + 1 },
		}},
		{result, breaks{
			"id": func() { result.ID = long }, "peers": func() { result.Peers = make([]PeerPing, maxPeers+1) },
			"name": func() { pings(PeerPing{To: "-"}) }, "more received": func() { pings(PeerPing{To: "b", Sent: 1, Received: 2}) },
			"below 0": func() { pings(PeerPing{To: "b", Received: -1}) }, "sent": func() { pings(PeerPing{To: "b", Sent: MaxPingCount + 1}) },
			"NaN": func() { pings(PeerPing{To: "b", RTT: math.NaN()}) }, "Inf": func() { pings(PeerPing{To: "b", RTT: math.Inf(1)}) },
			"RTT below 0": func() { pings(PeerPing{To: "b", RTT: -1}) },
		}},
		{find, breaks{"id": func() { find.ID = "" }, "no MAC": func() { find.MAC = MAC{} }, "multicast": func() { find.MAC = MAC{1} }}},
		{found, breaks{
			"id": func() { found.ID = long }, "device": func() { found.Device = "\x1b" }, "both": func() { found.Peer = "b" },
			"peer": func() { found.Device, found.Peer = "", "-" }, "reason": func() { found.Reason = long },
		}},
		{claim, breaks{
			"id": func() { claim.NodeID = "" }, "no port": func() { claim.Port = "" }, "port": func() { claim.Port = "\x1b" }, "sequence": func() { claim.Sequence = 1<<53 + 1 },
		}},
		{published, breaks{
			"node": func() { published.Node = "-" }, "port": func() { published.Port = long }, "sequence": func() { published.Sequence = 1<<53 + 1 },
			"moves": func() { published.Moves = MovesMost + 1 }, "less moves": func() { published.Moves = -1 },
			"other node": func() { published.Duplicate.Node = "-" }, "other port": func() { published.Duplicate.Port = "\x1b" },
		}},
		{member, breaks{
			"id": func() { member.NodeID = "" }, "datacenter": func() { member.Datacenter = "\x1b" }, "vtep": func() { member.VTEP = netip.Addr{} },
			"vtep zone": func() { member.VTEP = addr6.WithZone("x") }, "vtep multicast": func() { member.VTEP = netip.MustParseAddr("ff02::1") },
			"vtep 4in6": func() { member.VTEP = netip.MustParseAddr("::ffff:1.2.3.4") },
			"IPv4 is 6": func() { member.UnderlayIPv4 = addr6 }, "IPv6 is 4": func() { member.UnderlayIPv6 = addr4 },
			"broadcast":   func() { member.UnderlayIPv4 = netip.MustParseAddr("255.255.255.255") },
			"unspecified": func() { member.UnderlayIPv6 = netip.IPv6Unspecified() }, "loopback": func() { member.UnderlayIPv4 = netip.MustParseAddr("127.0.0.1") },
			"link-local": func() { member.UnderlayIPv6 = netip.MustParseAddr("fe80::1") }, "zone": func() { member.UnderlayIPv6 = addr6.WithZone("x") },
			"none": func() { member.UnderlayIPv4, member.UnderlayIPv6 = netip.Addr{}, netip.Addr{} }, "transport": func() { member.Transport = "" },
		}},
		{assigned, breaks{"state": func() { assigned.State = "" }}},
		{ns, breaks{
			"id": func() { ns.NodeID = "" }, "OS": func() { ns.OS = "\x1b" }, "version": func() { ns.Version = long },
			"capabilities": func() { ns.Capabilities = lot }, "problems": func() { ns.Problems = lot }, "problem": func() { ns.Problems = []string{"\xff"} },
			"device empty": func() { ns.Underlay.IPv4.Device = "" }, "device long": func() { ns.Underlay.IPv6.Device = long }, "device path": func() { ns.Underlay.IPv4.Device = "../x" },
			"MTU 0": func() { ns.Underlay.IPv4.MTU = 0 }, "MTU": func() { ns.Underlay.IPv6.MTU = 1<<16 + 1 },
			"family": func() { ns.Underlay.IPv4.Bind = addr6 }, "no bind": func() { ns.Underlay.IPv6.Bind = netip.Addr{} },
			"advertise": func() { ns.Underlay.IPv6.Advertise = netip.MustParseAddr("fe80::1") },
		}},
		{vs, breaks{
			"state": func() { vs.State = "" }, "id": func() { vs.NodeID = "a b" }, "VNI": func() { vs.VNI = MaxVNI + 1 }, "MTU": func() { vs.MTU = -1 },
			"vtep": func() { vs.VTEP = addr6.WithZone("x") }, "repairs": func() { vs.Repairs = -1 }, "reason": func() { vs.Reason = "a\nb" },
			"links": func() { vs.Links = make([]Link, maxPeers+1) }, "peer": func() { links(Link{Peer: "", State: LinkUp}) },
			"link state": func() { links(Link{Peer: "b"}) }, "link reason": func() { links(Link{Peer: "b", State: LinkUp, Reason: long}) },
			"NaN": func() { links(Link{Peer: "b", State: LinkUp, RTT: math.NaN()}) }, "Inf": func() { links(Link{Peer: "b", State: LinkUp, RTT: math.Inf(1)}) },
		}},
		{alloc, breaks{"empty": func() { alloc.Holder = "" }, "odd": func() { alloc.Holder = "a/b" }}},
		{server, breaks{
			"empty": func() { server.Address = "" }, "no port": func() { server.Address = "a" }, "port 0": func() { server.Address = "a:0" },
			"port": func() { server.Address = "a:65536" }, "no host": func() { server.Address = ":1" }, "URL": func() { server.Address = "http://a:1" },
			"odd": func() { server.Address = "\x1b:1" }, "why": func() { server.Why = long }, "datacenter": func() { server.Datacenter = "-" },
		}},
		{leader, breaks{"empty": func() { leader.Name = "" }, "odd": func() { leader.Name = "\x9b" }}},
	} {
		good, err := json.Marshal(tt.r)
		if err != nil {
			t.Fatal(err)
		}
		for name, change := range tt.breaks {
			if err := tt.r.Validate(); err != nil {
				t.Fatalf("%T is not valid at first: %v", tt.r, err)
			}
			change()
			err := tt.r.Validate()
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%T with %s broken: %v, want ErrInvalid", tt.r, name, err)
			} else if s := err.Error(); strings.ContainsFunc(s, unicode.IsControl) || !utf8.ValidString(s) {
				t.Errorf("%T with %s broken: the error is not fit to print: %q", tt.r, name, s)
			}
			reset(t, tt.r, good)
		}
	}
}

// reset makes r what good says.
func reset(t *testing.T, r Record, good []byte) {
	t.Helper()
	reflect.ValueOf(r).Elem().SetZero()
	if err := json.Unmarshal(good, r); err != nil {
		t.Fatal(err)
	}
}

// Text that nobody chose, such as a kernel's, never keeps a report from being
// written, and comes out clean.
func TestEncodeCleansText(t *testing.T) {
	odd := strings.Repeat("no\x1b[31m\nsuch device \u202e \xff ", 99)
	net, vs, ns := examples()[KeyVPCNet("blue")].(*VPCNet), examples()[KeyVPCStatus("a", "blue")].(*VPCStatus), examples()[KeyNodeStatus("a")].(*NodeStatus)
	net.Reason, net.Refused = odd, map[string]string{"a": odd}
	vs.Reason, vs.Links = odd, []Link{{Peer: "b", State: LinkDown, Reason: odd}}
	ns.OS, ns.Problems = odd, slicesRepeat(odd, maxFew+9)
	for key, r := range map[string]Record{KeyVPCNet("blue"): net, KeyVPCStatus("a", "blue"): vs, KeyNodeStatus("a"): ns} {
		raw, err := Encode(r, nil)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		if _, err := Decode(key, raw); err != nil {
			t.Errorf("%s: %v", key, err)
		}
		if !strings.Contains(string(raw), "no?[31m such device ? ? no") {
			t.Errorf("%s: text is lost: %.200s", key, raw)
		}
	}
}

func slicesRepeat(s string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = s
	}
	return list
}

func TestCleanText(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		"set MTU: operation refused":   "set MTU: operation refused",
		"a\nb\tc\r":                    "a b c ",
		"\x1b[31mred\x07\x7f\u009b":    "?[31mred???",
		"left \u202e right \u200b":     "left ? right ?",
		"a\u2028b\xff":                 "a?b?",
		"größer 日本":                    "größer 日本",
		strings.Repeat("ä", 200):       strings.Repeat("ä", 200),
		strings.Repeat("ä", 201):       strings.Repeat("ä", 198) + "…",
		"x" + strings.Repeat("ä", 300): "x" + strings.Repeat("ä", 198) + "…",
	} {
		if got := CleanText(in); got != want {
			t.Errorf("CleanText(%q) = %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.String(), rapid.StringN(300, 500, 2000),
			rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "in")
		got := CleanText(in)
		if CleanText(got) != got || len(got) > maxText || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' }) {
			t.Fatalf("CleanText(%q) = %q", in, got)
		}
	})
}

func TestTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := At(time.Unix(rapid.Int64Range(-6e10, 25e10).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")))
		b, err := in.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var out Time
		if err := out.UnmarshalText(b); err != nil || !out.Equal(in.Time) || out.Location() != time.UTC {
			t.Fatalf("%v is written %s and read %v, %v", in, b, out, err)
		}
	})
	var zero Time
	if b, err := zero.MarshalText(); err != nil || len(b) != 0 {
		t.Errorf("zero time: %q, %v", b, err)
	}
	if b, err := json.Marshal(&Leader{Name: "a", Since: At(time.Unix(1, 23456789))}); err != nil || string(b) != `{"name":"a","since":"1970-01-01T00:00:01.023Z"}` {
		t.Errorf("in a record: %s, %v", b, err)
	}
	if err := zero.UnmarshalText([]byte("2026-01-02T03:04:05.678901+02:00")); err != nil || zero.Format(timeLayout) != "2026-01-02T01:04:05.678Z" {
		t.Errorf("with an offset: %v, %v", zero, err)
	}
	if err := zero.UnmarshalText([]byte("yesterday")); !errors.Is(err, ErrInvalid) {
		t.Errorf("no time: %v, want ErrInvalid", err)
	}
}

func FuzzDecode(f *testing.F) {
	for key, r := range examples() {
		raw, err := Encode(r, nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(key, raw)
	}
	f.Add(KeyHostVPC("a", "blue"), []byte(`{"needs":9}`))
	f.Add(KeyMember("blue", "a"), []byte(`{"node_id":"n","vtep":"::ffff:10.0.0.1"}`))
	f.Add(KeyLeader, []byte(`{"Name":"a","name":"b","since":"9999-12-31T23:59:59-01:00"}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		r, err := Decode(key, value)
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrNewer) && !errors.Is(err, ErrUnknownKey) {
				t.Errorf("Decode(%q, %q): %v", key, value, err)
			}
			return
		}
		out, err := Encode(r, value)
		if err != nil {
			t.Fatalf("%q was read and cannot be written: %v", value, err)
		}
		again, err := Decode(key, out)
		if err != nil {
			t.Fatalf("%q was written as %q, which cannot be read: %v", value, out, err)
		}
		one, err1 := marshal(r)
		two, err2 := marshal(again)
		if err1 != nil || err2 != nil || string(one) != string(two) {
			t.Fatalf("%q was read as %s (%v), and after a rewrite as %s (%v)", value, one, err1, two, err2)
		}
	})
}

// TestNeedsInAnySpelling: whatever encoding/json would take for "needs" counts.
func TestNeedsInAnySpelling(t *testing.T) {
	for _, member := range []string{`"needs"`, `"NEEDS"`, `"Needs"`, `"\u006eeeds"`, `"need\u017f"`, "\"need\u017f\""} {
		value := `{"state":"member",` + member + `:99}`
		if _, err := Decode(KeyHostVPC("a", "blue"), []byte(value)); !errors.Is(err, ErrNewer) {
			t.Errorf("Decode(%s) = %v; want ErrNewer", value, err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	key := KeyMember("blue", "a")
	value, err := Encode(examples()[key], nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(key, value); err != nil {
			b.Fatal(err)
		}
	}
}

// Check tells of every field that is wrong, and not of a field that would be
// right if another were.
func TestVPCSpecCheck(t *testing.T) {
	prefix := netip.MustParsePrefix
	network := Networks{IPv4: prefix("10.100.7.1/24")}
	for name, tt := range map[string]struct {
		change func(*VPCSpec)
		want   []string
	}{
		"right": {change: func(*VPCSpec) {}},
		"each": {
			change: func(s *VPCSpec) {
				*s = VPCSpec{VNI: MaxVNI + 1, MTU: 1, Network: network, Exclude: make([]netip.Addr, maxPeers+1)}
			},
			want: []string{"state", "vni", "mtu", "peer_network", "network", "exclude", "members"},
		},
		"peer network alone":  {change: func(s *VPCSpec) { s.PeerNetwork = prefix("10.100.0.1/16") }, want: []string{"peer_network"}},
		"networks overlap":    {change: func(s *VPCSpec) { s.PeerNetwork = prefix("10.10.0.0/16"); s.Exclude = nil }, want: []string{"network"}},
		"excluded, elsewhere": {change: func(s *VPCSpec) { s.PeerNetwork = prefix("10.99.0.0/16") }, want: []string{"exclude"}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := examples()[KeyVPCSpec("blue")].(*VPCSpec)
			tt.change(spec)
			var got []string
			for _, e := range spec.Check() {
				got = append(got, e.Field)
				if !errors.Is(e, ErrInvalid) {
					t.Errorf("%s: %v does not wrap ErrInvalid", e.Field, e)
				}
			}
			if d := cmp.Diff(got, tt.want); d != "" {
				t.Errorf("(-got +want):\n%s", d)
			}
		})
	}
}
