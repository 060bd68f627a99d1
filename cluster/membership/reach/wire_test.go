package reach

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"net/netip"
	"testing"
)

// identity is a key, its public part, and its hash.
func identity(t testing.TB) (*ecdsa.PrivateKey, []byte, KeyHash) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	info, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, info, sha256.Sum256(info)
}

var here = netip.MustParseAddr("192.0.2.1")

// TestAnswerIsOfOneQuestion: an answer holds for its nonce, key and address only,
// and is smaller than the question, however the signature comes out.
func TestAnswerIsOfOneQuestion(t *testing.T) {
	key, info, hash := identity(t)
	other, otherInfo, otherHash := identity(t)
	q := newQuestion(hash, here)
	for range 200 {
		signed, err := q.sign(key, info)
		if err != nil {
			t.Fatal(err)
		}
		sent, asked := signed.encode(), q.encode()
		if len(sent) >= len(asked) || len(sent) > answerMost {
			t.Fatalf("an answer of %d bytes to a question of %d", len(sent), len(asked))
		}
		read, ok := parseQuestion(asked)
		if !ok || read != q {
			t.Fatalf("%v was read as %v", q, read)
		}
		back, ok := parseAnswer(sent)
		if !ok || q.check(back) != nil {
			t.Fatalf("a good answer is refused: %v", q.check(back))
		}
	}
	signed, err := q.sign(key, info)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := q.sign(other, info)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := q.sign(other, otherInfo)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, again, theirs := q, newQuestion(hash, here), q
	elsewhere.Address, theirs.Key = netip.MustParseAddr("192.0.2.2"), otherHash
	renamed := signed
	renamed.Nonce = again.Nonce
	for name, tt := range map[string]struct {
		q question
		a answer
	}{
		"another address": {elsewhere, signed}, "another nonce": {again, signed}, "the other nonce put in": {again, renamed},
		"signed by another": {q, forged}, "another's answer": {q, foreign}, "asked of another": {theirs, signed},
	} {
		if tt.q.check(tt.a) == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

func TestParseKeyHash(t *testing.T) {
	for _, bad := range []string{"", "00", "zz", string(bytes.Repeat([]byte("g"), 64)), string(bytes.Repeat([]byte("a"), 66))} {
		if _, err := ParseKeyHash(bad); err == nil {
			t.Errorf("%q is taken for a hash", bad)
		}
	}
}

// FuzzQuestion: what is read as a question is one of ours to the last bit.
func FuzzQuestion(f *testing.F) {
	_, _, hash := identity(f)
	f.Add(newQuestion(hash, here).encode())
	f.Add(newQuestion(hash, netip.MustParseAddr("2001:db8::1")).encode())
	f.Add([]byte(questionMark))
	f.Add(make([]byte, questionSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, ok := parseQuestion(b); ok && !bytes.Equal(q.encode(), b) {
			t.Errorf("%x was read as %v", b, q)
		}
	})
}

// FuzzAnswer: what is read as an answer is one to the last bit, and none but the
// holder's is a good one.
func FuzzAnswer(f *testing.F) {
	key, info, hash := identity(f)
	q := newQuestion(hash, here)
	signed, err := q.sign(key, info)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed.encode())
	f.Add(answer{q.Nonce, info, nil}.encode())
	f.Add(answer{q.Nonce, nil, signed.Signature}.encode())
	f.Add([]byte(answerMark))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := parseAnswer(b)
		if !ok {
			return
		}
		if !bytes.Equal(a.encode(), b) {
			t.Errorf("%x was read as %v", b, a)
		}
		if q.check(a) == nil && !ecdsa.VerifyASN1(&key.PublicKey, q.digest(), a.Signature) {
			t.Errorf("%x is no answer, and is taken", b)
		}
	})
}
