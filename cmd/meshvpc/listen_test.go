package main

import (
	"net/netip"
	"testing"
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
