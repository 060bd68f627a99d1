package membership

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTokenText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tok := Token{Role: rapid.SampledFrom(roles).Draw(t, "role")}
		copy(tok.Pin[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "pin"))
		copy(tok.ID[:], rapid.SliceOfN(rapid.Byte(), 5, 5).Draw(t, "id"))
		copy(tok.Secret[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "secret"))
		text := tok.String()
		got, err := ParseToken(" " + strings.ToUpper(text) + "\n")
		if err != nil || got != tok {
			t.Fatalf("%v, %v", got, err)
		}
		i := rapid.IntRange(len(tokenPrefix), len(text)-2).Draw(t, "at") // the last character has bits to spare
		c := rapid.SampledFrom([]byte("abcdefghjkmnpqrstuvwxyz023456789")).Draw(t, "typo")
		mistyped := text[:i] + string(c) + text[i+1:]
		if _, err := ParseToken(mistyped); mistyped != text && (!errors.Is(err, ErrToken) || !strings.Contains(err.Error(), "mistyped")) {
			t.Fatalf("%q with %q for %q: %v", text, c, text[i], err)
		}
		if strings.Contains(text, strings.ToLower(tok.Hash())) {
			t.Fatal("the token shows the hash")
		}
	})
}

func TestTokenRefuses(t *testing.T) {
	ca, err := NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	good := NewToken(cluster.TokenNode, ca.Pin()).String()
	for name, s := range map[string]string{
		"nothing": "", "prefix": tokenPrefix, "short": good[:len(good)-1], "long": good + "a", "other": "abc", "odd": good[:9] + "!" + good[10:],
	} {
		_, err := ParseToken(s)
		if !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		} else if len(s) > 8 && strings.Contains(err.Error(), s[8:]) {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("mv1-")
	f.Add(NewToken(cluster.TokenServer, Pin{}).String())
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := ParseToken(s); err == nil {
			if again, err := ParseToken(tok.String()); err != nil || again != tok {
				t.Errorf("%q: %v, %v", s, again, err)
			}
		}
	})
}

func TestRequested(t *testing.T) {
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := k.Request()
	if err != nil {
		t.Fatal(err)
	}
	first, err := requested(text)
	if err != nil || len(first.hash) != 64 {
		t.Errorf("%q, %v", first.hash, err)
	}
	again, err := ReadKey(k.PEM)
	if err != nil {
		t.Fatal(err)
	}
	second, err := again.Request()
	if err != nil {
		t.Fatal(err)
	}
	if w, err := requested(second); err != nil || w.hash != first.hash {
		t.Errorf("the key read back has the hash %q, %v; want %q", w.hash, err, first.hash)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "a key": k.PEM, "two": append(text, text...), "cut": text[:len(text)/2],
	} {
		if _, err := requested(bad); err == nil {
			t.Errorf("%s was taken for a request", name)
		}
	}
}

func FuzzRequested(f *testing.F) {
	k, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	text, err := k.Request()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		if w, err := requested(text); err == nil && (w.key == nil || len(w.hash) != 64) {
			t.Errorf("%+v", w)
		}
	})
}
