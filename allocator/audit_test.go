package allocator

import (
	"context"
	"net/netip"

	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// sound is a cluster in which each value is held by whoever has it.
func sound() map[string]cluster.Record {
	ip, mac, vtep := netip.MustParseAddr("10.10.11.2"), cluster.MAC{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.100.0.1")
	pair := cluster.PairOf("blue", "a", "b").String()
	return map[string]cluster.Record{
		cluster.KeyLeader: &cluster.Leader{Name: "a"},
		cluster.KeyVPCSpec("blue"): &cluster.VPCSpec{State: cluster.VPCActive, Members: "all", PeerNetwork: cluster.DefaultPeerNetwork,
			Network: cluster.Networks{IPv4: netip.MustParsePrefix("10.10.11.0/29")}, Exclude: []netip.Addr{netip.MustParseAddr("10.10.11.1")}},
		cluster.KeyVPCNet("blue"):               &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: 7, MTU: 1400, PeerNetwork: cluster.DefaultPeerNetwork},
		cluster.KeyMember("blue", "a"):          &cluster.Member{NodeID: "a", VTEP: vtep, UnderlayIPv4: netip.MustParseAddr("192.0.2.1"), Transport: cluster.P2P},
		cluster.KeyNode("a"):                    &cluster.Node{ID: "a", Datacenter: "dc", State: cluster.NodeActive},
		cluster.KeyNode("gone"):                 &cluster.Node{ID: "g", Datacenter: "dc", State: cluster.NodeLeft},
		cluster.KeyHostLink("a", "blue", "b"):   &cluster.HostLink{VNI: 8, Use: cluster.LinkActive},
		cluster.KeyHostLink("b", "blue", "a"):   &cluster.HostLink{VNI: 8, Use: cluster.LinkActive},
		cluster.KeyEndpointSpec("blue", "web1"): &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true},
		cluster.KeyEndpointOwn("blue", "web1"):  &cluster.EndpointOwn{State: cluster.OwnAssigned, IPs: []netip.Addr{ip}, MAC: mac, Node: "a", Era: 1, Epoch: 1},
		cluster.KeyAllocVNI(7):                  &cluster.Allocation{Holder: "blue"},
		cluster.KeyAllocVNI(8):                  &cluster.Allocation{Holder: pair},
		cluster.KeyAllocVTEP("blue", vtep):      &cluster.Allocation{Holder: "a"},
		cluster.KeyAllocIP("blue", ip):          &cluster.Allocation{Holder: "web1"},
		cluster.KeyAllocIP("blue", ip.Next()):   &cluster.Allocation{Holder: "web0", Released: true},
		cluster.KeyAllocMAC("blue", mac):        &cluster.Allocation{Holder: "web1"},
	}
}

func viewAll(t *testing.T, records map[string]cluster.Record) *store.View {
	t.Helper()
	kv := mvcc.NewMemory(mvcc.Config{})
	for key, r := range records {
		value, err := cluster.Encode(r, nil)
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		if _, err := kv.Txn(context.Background(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(key, value)}}); err != nil {
			t.Fatal(err)
		}
	}
	var got *store.View
	done := context.Canceled
	err := store.Look(t.Context(), store.MirrorConfig{Store: store.New(kv, cluster.Identity{Role: cluster.Operator})}, func(_ context.Context, m *store.Mirror) (time.Duration, error) {
		if got = m.Pull(); got.Synced(cluster.Root) {
			return 0, done
		}
		return 0, nil
	}, cluster.Root)
	if err != done {
		t.Fatal(err)
	}
	return got
}

func TestAudit(t *testing.T) {
	ip, mac := netip.MustParseAddr("10.10.11.2"), cluster.MAC{2, 0, 0, 0, 0, 1}
	type records = map[string]cluster.Record
	for name, tt := range map[string]struct {
		change func(records)
		want   []string // value, holder, what
	}{
		"sound":          {func(records) {}, nil},
		"address leaked": {func(r records) { r[cluster.KeyAllocIP("blue", ip.Next())] = &cluster.Allocation{Holder: "web0"} }, []string{"10.10.11.3 web0 its reverse key says that it is taken, and nobody has it"}},
		"MAC leaked": {func(r records) {
			r[cluster.KeyAllocMAC("blue", cluster.MAC{2, 9})] = &cluster.Allocation{Holder: "web1"}
		}, []string{"02:09:00:00:00:00 web1 its reverse key says that it is taken, and nobody has it"}},
		"VTEP address leaked":   {func(r records) { r[cluster.KeyAllocVTEP("blue", ip)] = &cluster.Allocation{Holder: "gone"} }, []string{"10.10.11.2 gone its reverse key says that it is taken, and nobody has it"}},
		"VTEP address kept":     {func(r records) { delete(r, cluster.KeyMember("blue", "a")) }, nil},
		"VNI leaked":            {func(r records) { r[cluster.KeyAllocVNI(9)] = &cluster.Allocation{Holder: "red"} }, []string{"9 red its reverse key says that it is taken, and nobody has it"}},
		"pair without a key":    {func(r records) { delete(r, cluster.KeyAllocVNI(8)) }, []string{"8 blue/a/b no reverse key says that it is taken: another could get it", "8 blue/a/b no reverse key says that it is taken: another could get it"}},
		"address without a key": {func(r records) { delete(r, cluster.KeyAllocIP("blue", ip)) }, []string{"10.10.11.2 web1 no reverse key says that it is taken: another could get it"}},
		"key of a released one": {func(r records) {
			r[cluster.KeyAllocMAC("blue", mac)] = &cluster.Allocation{Holder: "web1", Released: true}
		}, []string{"02:00:00:00:00:01 web1 its reverse key says that it was given back"}},
		"key of another": {func(r records) { r[cluster.KeyAllocIP("blue", ip)] = &cluster.Allocation{Holder: "web2"} }, []string{"10.10.11.2 web1 its reverse key says that web2 holds it"}},
		"no leader":      {func(r records) { delete(r, cluster.KeyLeader) }, []string{"  no controller leads: nothing is given out, and what was given back does not become free"}},
		"spec gone":      {func(r records) { delete(r, cluster.KeyEndpointSpec("blue", "web1")) }, []string{" web1 its spec is gone: it keeps what it has"}},
		"not taken up": {func(r records) {
			r[cluster.KeyEndpointSpec("blue", "web2")] = &cluster.EndpointSpec{State: cluster.EndpointActive}
		}, []string{" web2 no controller has taken it up yet"}},
		"pending": {func(r records) {
			r[cluster.KeyEndpointOwn("blue", "web2")] = &cluster.EndpointOwn{State: cluster.OwnPending, Reason: "full"}
			r[cluster.KeyEndpointSpec("blue", "web2")] = &cluster.EndpointSpec{State: cluster.EndpointActive}
		}, []string{" web2 pending: full"}},
		"network of other addresses": {func(r records) {
			r[cluster.KeyVPCSpec("blue")].(*cluster.VPCSpec).Network.IPv4 = netip.MustParsePrefix("10.10.12.0/24")
			r[cluster.KeyVPCSpec("blue")].(*cluster.VPCSpec).Exclude = nil
		}, []string{"10.10.11.2 web1 it is not of the VPC's network"}},
		"held twice": {func(r records) {
			r[cluster.KeyEndpointSpec("blue", "web2")] = &cluster.EndpointSpec{State: cluster.EndpointActive}
			r[cluster.KeyEndpointOwn("blue", "web2")] = &cluster.EndpointOwn{State: cluster.OwnUnplaced, IPs: []netip.Addr{ip}, MAC: mac, Era: 1, Epoch: 1}
		}, []string{"10.10.11.2 web2 web1 has it, too", "02:00:00:00:00:01 web2 web1 has it, too"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := sound()
			tt.change(r)
			var got []string
			for _, f := range Audit(viewAll(t, r)) {
				got = append(got, f.Value+" "+f.Holder+" "+f.What)
				if f.Do == "" {
					t.Errorf("%+v: nothing to do", f)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUsageOf(t *testing.T) {
	r := sound()
	for i := range 3 {
		name := string(rune('a'+i)) + "pod"
		r[cluster.KeyEndpointSpec("blue", name)] = &cluster.EndpointSpec{State: cluster.EndpointActive, Requester: "b"}
		r[cluster.KeyAllocIP("blue", netip.AddrFrom4([4]byte{10, 10, 11, byte(4 + i)}))] = &cluster.Allocation{Holder: name}
	}
	got := UsageOf(viewAll(t, r))
	want := []Usage{{VPC: "blue", Network: netip.MustParsePrefix("10.10.11.0/29"), Capacity: 5, Used: 4, Resting: 1, Free: 0, Top: []Share{{"b", 3}, {"a", 1}}}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}
