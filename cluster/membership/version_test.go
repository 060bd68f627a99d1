package membership

import (
	"strings"
	"testing"
)

func TestCompatible(t *testing.T) {
	for name, tt := range map[string]struct{ a, b, older string }{
		"the same":           {"0.1.0", "0.1.0", ""},
		"patches":            {"1.4.0", "1.4.17", ""},
		"neighbours":         {"1.4.9", "1.5.0", ""},
		"a commit":           {"0.1.0+0123456789ab", "0.2.0", ""},
		"two apart":          {"0.1.0", "0.3.0", "0.1.0"},
		"two apart, newer":   {"0.3.0+0123456789ab", "0.1.9", "0.1.9"},
		"candidates":         {"v1.6.0-rc.1", "1.4.0", "1.4.0"},
		"another major":      {"1.0.0", "2.0.0", "1.0.0"},
		"another major, low": {"2.0.0", "1.9.0", "1.9.0"},
		"old joiners":        {"", "9.0.0", ""},
		"development":        {"(devel)", "9.0.0", ""},
		"no number":          {"0.x.1", "9.0.0", ""},
		"too many parts":     {"1.2.3.4", "9.0.0", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, pair := range [][2]string{{tt.a, tt.b}, {tt.b, tt.a}} {
				if older, ok := Compatible(pair[0], pair[1]); older != tt.older || ok != (tt.older == "") {
					t.Errorf("%v: %q is older, %v; want %q", pair, older, ok, tt.older)
				}
			}
		})
	}
}

// TestCheckVersion names both, and who is to be upgraded.
func TestCheckVersion(t *testing.T) {
	for joiner, who := range map[string]string{"0.3.0": "upgrade this host", "0.7.0": "upgrade the server"} {
		err := checkVersion(joiner, "0.5.0")
		if err == nil || !strings.Contains(err.Error(), joiner) || !strings.Contains(err.Error(), "0.5.0") || !strings.HasSuffix(err.Error(), who) {
			t.Errorf("%s: %v", joiner, err)
		}
	}
}
