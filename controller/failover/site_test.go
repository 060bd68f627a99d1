package failover

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// site is what this product is for: three hosts in two datacenters, and a witness.
func site(t *testing.T) *world {
	w := newWorld(t, "hetzner/gold-hoster-01", "hetzner/gold-hoster-02", "skynet/jhoster1", "third/witness!")
	w.settle()
	return w
}

func TestSiteLosesOneHostOfTwo(t *testing.T) {
	w := site(t)
	w.die("gold-hoster-01")
	want := []string{"4.0s fence gold-hoster-01", "4.5s e0: gold-hoster-01 to gold-hoster-02"}
	if got := w.live(20 * time.Second); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSiteLosesADatacenter(t *testing.T) {
	w := site(t)
	w.die("gold-hoster-01", "gold-hoster-02")
	got := w.live(3 * time.Second)
	if w.last.Mode != ModeDatacenter || len(got) != 0 || !strings.Contains(w.last.Why, "hetzner") {
		t.Fatalf("%v: %s, %q", got, w.last.Mode, w.last.Why)
	}
	got = append(got, w.live(20*time.Second)...)
	if len(got) != 2 || !strings.HasSuffix(got[0], "fence gold-hoster-01") || !strings.HasSuffix(got[1], "to jhoster1") {
		t.Errorf("%q", got)
	}
}

func TestSiteLosesADatacenterOfOneHost(t *testing.T) {
	w := site(t)
	w.put(w.at("e0"), "jhoster1", nil)
	w.live(time.Second)
	w.die("jhoster1")
	want := []string{"fence jhoster1", "e0: jhoster1 to gold-hoster-01"}
	got := w.live(5 * time.Second)
	for i := range got {
		_, got[i], _ = strings.Cut(got[i], " ")
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestSiteLosesALink: the two datacenters do not hear each other, the witness hears
// both. Whatever the keepalives do, nothing may move.
func TestSiteLosesALink(t *testing.T) {
	for _, frozen := range [][]string{nil, {"jhoster1"}, {"gold-hoster-01", "gold-hoster-02"}} {
		w := site(t)
		for _, gold := range []string{"gold-hoster-01", "gold-hoster-02"} {
			w.misses("jhoster1", gold, false, false)
			w.misses(gold, "jhoster1", false, false)
		}
		w.tick()
		for _, name := range frozen {
			w.frozen[name] = true
		}
		if got := w.live(time.Minute); len(got) != 0 || w.class("jhoster1") == Down || w.class("gold-hoster-01") == Down {
			t.Errorf("with %v late: %q, %+v", frozen, got, w.last.Nodes)
		}
	}
}

// TestSiteLosesAnotherLater: a host that had nothing and is long gone is no part of
// what is lost at once, though more than half are gone by then.
func TestSiteLosesAnotherLater(t *testing.T) {
	for wait, want := range map[time.Duration]string{20 * time.Second: "jhoster1", 70 * time.Second: "gold-hoster-01"} {
		w := site(t)
		w.put(w.at("e0"), "jhoster1", nil)
		w.die("gold-hoster-02")
		w.live(wait)
		w.die("jhoster1")
		if w.live(20 * time.Second); w.at("e0").owner() != want {
			t.Errorf("after %s: at %s, want %s; %s", wait, w.at("e0").owner(), want, w.last.Why)
		}
	}
}
