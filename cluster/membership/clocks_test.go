package membership_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// TestClockOff has the clock of the server that lets a host in be wrong: by an hour,
// all goes on and every certificate holds by the right clock, too; what the clock is to
// blame for says so, with both times.
func TestClockOff(t *testing.T) {
	for name, tt := range map[string]struct {
		off           time.Duration
		left          time.Duration // of the token, by the right clock
		join, renewed string        // "" is well, else what the refusal says
	}{
		"right":                               {0, 2 * time.Hour, "", ""},
		"an hour ahead":                       {time.Hour, 2 * time.Hour, "", ""},
		"an hour behind":                      {-time.Hour, 2 * time.Hour, "", ""},
		"an hour ahead, a token of less":      {time.Hour, 30 * time.Minute, "the token has expired at ", ""},
		"three hours behind: no member's yet": {-3 * time.Hour, 2 * time.Hour, "", "the certificate holds from "},
		"two years ahead: no member's more":   {2 * 366 * 24 * time.Hour, 3 * 366 * 24 * time.Hour, "", "the certificate holds from "},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			h := newHouse(t, func(c *membership.ServiceConfig) { c.Now = func() time.Time { return time.Now().Add(tt.off) } })
			says := func(what string, err error, want string) {
				t.Helper()
				r, refused := errors.AsType[*membership.Refusal](err)
				if want == "" && err != nil || want != "" && (!refused || !strings.Contains(r.Reason, want)) {
					t.Errorf("%s: %v; want %q", what, err, want)
				}
				if refused {
					_, said, _ := strings.Cut(r.Reason, "the clock of this server says ")
					if at, err := time.Parse(time.RFC3339, said); err != nil || abs(at.Sub(now.Add(tt.off))) > 10*time.Minute {
						t.Errorf("%s: %q says another time than %v", what, r.Reason, now.Add(tt.off))
					}
				}
			}
			m := newMachine(t)
			answer, ca, err := membership.Join(t.Context(), h.address, h.token(1, now.Add(tt.left)), m.request(t, "n1", "id-1"))
			says("join", err, tt.join)
			if abs(tt.off) <= time.Hour && err == nil {
				c := membership.Credential{CA: ca, Cert: []byte(answer.Certificate), Key: m.node.PEM}
				holds(t, c, now)
				_, err := membership.Renew(t.Context(), h.address, c)
				says("renew what it gave", err, "")
			}
			_, err = membership.Renew(t.Context(), h.address, h.admin)
			says("renew what another gave", err, tt.renewed)
		})
	}
}

func abs(d time.Duration) time.Duration { return max(d, -d) }

// holds: a certificate holds by the right clock, and is not old by one that is an hour
// off.
func holds(t *testing.T, c membership.Credential, now time.Time) {
	t.Helper()
	p, _, err := c.Periods()
	if err != nil || p.From.After(now) || p.Until.Before(now.Add(300*24*time.Hour)) {
		t.Errorf("it holds from %v to %v, %v; now is %v", p.From, p.Until, err, now)
	}
	for _, off := range []time.Duration{-time.Hour, 0, time.Hour} {
		if old, err := c.Old(nil, now.Add(off)); err != nil || old {
			t.Errorf("by a clock that is off by %v it is old, %v", off, err)
		}
	}
}

// TestCertificateAnHourEarly: what a right clock dates holds already for one that is an
// hour behind.
func TestCertificateAnHourEarly(t *testing.T) {
	now := time.Now()
	ca, err := membership.NewCA("test", now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.Credential(cluster.Subject{Kind: cluster.SubjectNode, Name: "n1"}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	cert, root, err := c.Periods()
	if behind := now.Add(-time.Hour); err != nil || cert.From.After(behind) || root.From.After(behind) {
		t.Errorf("certificate %v, CA %v, %v; want %v", cert.From, root.From, err, behind)
	}
}
