package voters

import (
	"testing"
	"time"
)

// TestWatch: what counts is the time that was watched.
func TestWatch(t *testing.T) {
	var w Watch
	look := func(elapsed time.Duration, healthy map[string]bool) { w.Observe(elapsed, healthy) }
	want := func(name string, healthy bool, lasts time.Duration) {
		t.Helper()
		if h, l := w.Health(name); h != healthy || l != lasts {
			t.Errorf("Health(%s) = %v for %s; want %v for %s", name, h, l, healthy, lasts)
		}
	}
	up, down := map[string]bool{"a": true, "b": true}, map[string]bool{"a": true, "b": false}
	want("a", false, 0)
	look(time.Second, up) // nothing is known of the second before
	want("a", true, 0)
	look(time.Second, up)
	look(2*time.Second, down)
	want("a", true, 3*time.Second)
	want("b", false, 0)
	look(time.Second, down)
	want("b", false, time.Second)
	look(time.Hour, down) // frozen, or a clock that jumped
	want("b", false, 6*time.Second)
	look(-time.Hour, down)
	want("b", false, 6*time.Second)
	want("a", true, 9*time.Second)
	look(time.Second, map[string]bool{"a": true})
	look(time.Second, down)
	want("b", false, 0)
	want("a", true, 11*time.Second)
}
