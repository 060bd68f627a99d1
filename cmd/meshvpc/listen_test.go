package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLostListen(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	for name, tt := range map[string]struct {
		listen, peers []string
		want          string
	}{
		"all there":        {[]string{"192.0.2.1:2379", "[2001:db8::1]:2379"}, []string{"[2001:db8::1]:2380"}, ""},
		"in disguise":      {[]string{"[::ffff:192.0.2.1]:2379"}, nil, ""},
		"any address":      {[]string{"[::]:2379"}, []string{"0.0.0.0:2380"}, ""},
		"one lost":         {[]string{"[2001:db8::7]:2379"}, []string{"[2001:db8::7]:2380"}, "it listens on 2001:db8::7, which this host does not have"},
		"two lost":         {[]string{"192.0.2.1:2379", "192.0.2.7:2379"}, []string{"192.0.2.8:2380"}, "it listens on 192.0.2.7 and 192.0.2.8, which this host does not have"},
		"not an address":   {[]string{"nonsense"}, nil, ""}, // refused elsewhere
		"nothing to serve": {nil, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := lostListen(serverConfig{Listen: tt.listen, ListenPeers: tt.peers}, own); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestMoved(t *testing.T) {
	addr := netip.MustParseAddr
	server := func(follow string) serverConfig {
		return serverConfig{Follow: follow, Listen: []string{"192.0.2.1:2379", "[2001:db8::1]:2379"}, Advertise: []string{"192.0.2.1:2379"},
			ListenPeers: []string{"192.0.2.1:2380"}, ListenJoin: []string{"192.0.2.1:2378"}, AdvertisePeers: []string{"192.0.2.1:2380"}}
	}
	for name, tt := range map[string]struct {
		follow string
		have   []hostAddress
		want   string // the listen address of IPv4; "": it does not move
	}{
		"nothing is lost":             {anyDevice, []hostAddress{{"e0", addr("2001:db8::1")}, {"e0", addr("192.0.2.1")}, {"e0", addr("192.0.2.9")}}, ""},
		"another address":             {anyDevice, []hostAddress{{"e0", addr("2001:db8::1")}, {"e0", addr("192.0.2.9")}}, "192.0.2.9"},
		"on the device":               {"e1", []hostAddress{{"e0", addr("2001:db8::1")}, {"e0", addr("192.0.2.8")}, {"e1", addr("192.0.2.9")}}, "192.0.2.9"},
		"not on the device":           {"e1", []hostAddress{{"e0", addr("2001:db8::1")}, {"e0", addr("192.0.2.9")}}, ""},
		"chosen by hand":              {"", []hostAddress{{"e0", addr("2001:db8::1")}, {"e0", addr("192.0.2.9")}}, ""},
		"none of the family":          {anyDevice, []hostAddress{{"e0", addr("2001:db8::1")}, {"e0", addr("2001:db8::9")}}, ""},
		"one of two families is gone": {anyDevice, []hostAddress{{"e0", addr("192.0.2.9")}}, ""},
		"no address at all":           {anyDevice, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			was := server(tt.follow)
			now, ok := moved(was, tt.have)
			want := server(tt.follow)
			if tt.want != "" {
				want.Listen[0], want.Advertise[0], want.ListenPeers[0] = tt.want+":2379", tt.want+":2379", tt.want+":2380"
				want.ListenJoin[0], want.AdvertisePeers[0] = tt.want+":2378", tt.want+":2380"
			}
			if diff := cmp.Diff(want, now, cmp.AllowUnexported(serverConfig{})); ok != (tt.want != "") || diff != "" {
				t.Errorf("moved %v (-want +got):\n%s", ok, diff)
			}
			if diff := cmp.Diff(server(tt.follow), was, cmp.AllowUnexported(serverConfig{})); diff != "" {
				t.Errorf("what was given has changed:\n%s", diff)
			}
		})
	}
}

func TestFollowed(t *testing.T) {
	for words, want := range map[string]string{"": anyDevice, "eth0": "eth0", "192.0.2.1": "", "192.0.2.1=203.0.113.7": "", "192.0.2.1 2001:db8::1": ""} {
		if got := followed(strings.Fields(words)); got != want {
			t.Errorf("%q: follows %q, want %q", words, got, want)
		}
	}
}
