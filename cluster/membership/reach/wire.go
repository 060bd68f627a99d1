package reach

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
)

// Port is the UDP port that hosts answer on.
const Port = 4788

// Sizes of what is sent, in bytes. An answer has fewer than its question.
const (
	questionSize = 256
	answerMost   = 8 + nonceSize + 1 + 91 + 1 + 72 // of a P-256 key
	nonceSize    = 32
	askedSize    = nonceSize + sha256.Size + 16
)

const (
	questionMark = "mv-ask-1"
	answerMark   = "mv-ans-1"
	// domain keeps what we sign apart from all else that the key signs (TLS
	// handshakes, certificate requests).
	domain = "meshvpc: the holder of this key answers at this address\x00"
)

// KeyHash names a public key: the SHA-256 of its SubjectPublicKeyInfo.
type KeyHash [sha256.Size]byte

// ParseKeyHash reads the 64 hexadecimal digits that a node's record has.
func ParseKeyHash(s string) (h KeyHash, err error) {
	if len(s) != 2*len(h) {
		return h, errNoHash
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return KeyHash{}, errNoHash
	}
	return h, nil
}

var errNoHash = errors.New("no hash of a key: want 64 hexadecimal digits")

// question asks whether the holder of Key is at Address.
type question struct {
	Nonce   [nonceSize]byte
	Key     KeyHash
	Address netip.Addr
}

func newQuestion(key KeyHash, at netip.Addr) question {
	q := question{Key: key, Address: at}
	_, _ = rand.Read(q.Nonce[:]) // never fails, since Go 1.24
	return q
}

// asked is what an answer signs.
func (q question) asked() []byte {
	b := make([]byte, 0, askedSize)
	a := q.Address.As16()
	return append(append(append(b, q.Nonce[:]...), q.Key[:]...), a[:]...)
}

func (q question) encode() []byte {
	b := make([]byte, questionSize)
	copy(b[copy(b, questionMark):], q.asked())
	return b
}

// parseQuestion reads a datagram from whomever.
func parseQuestion(b []byte) (q question, ok bool) {
	rest, marked := bytes.CutPrefix(b, []byte(questionMark))
	if !marked || len(b) != questionSize || bytes.ContainsFunc(rest[askedSize:], func(r rune) bool { return r != 0 }) {
		return question{}, false
	}
	rest = rest[copy(q.Nonce[:], rest):]
	rest = rest[copy(q.Key[:], rest):]
	q.Address = netip.AddrFrom16([16]byte(rest[:16])).Unmap()
	return q, true
}

// digest is what is signed.
func (q question) digest() []byte {
	sum := sha256.Sum256(append([]byte(domain), q.asked()...))
	return sum[:]
}

// answer is a signed question.
type answer struct {
	Nonce     [nonceSize]byte
	Key       []byte // the public key, SubjectPublicKeyInfo
	Signature []byte // ASN.1
}

// sign answers q by a key, whose public part is info.
func (q question) sign(key crypto.Signer, info []byte) (answer, error) {
	signature, err := key.Sign(rand.Reader, q.digest(), crypto.SHA256)
	return answer{q.Nonce, info, signature}, err
}

func (a answer) encode() []byte {
	b := append([]byte(answerMark), a.Nonce[:]...)
	b = append(append(b, byte(len(a.Key))), a.Key...)
	return append(append(b, byte(len(a.Signature))), a.Signature...)
}

// parseAnswer reads a datagram from whomever.
func parseAnswer(b []byte) (a answer, ok bool) {
	rest, marked := bytes.CutPrefix(b, []byte(answerMark))
	if !marked || len(b) > answerMost || len(rest) < nonceSize {
		return answer{}, false
	}
	rest = rest[copy(a.Nonce[:], rest):]
	for _, part := range []*[]byte{&a.Key, &a.Signature} {
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			return answer{}, false
		}
		*part, rest = rest[1:1+int(rest[0])], rest[1+int(rest[0]):]
	}
	return a, len(rest) == 0
}

// check reports whether a answers q.
func (q question) check(a answer) error {
	if a.Nonce != q.Nonce {
		return errors.New("it answers another question")
	}
	if sha256.Sum256(a.Key) != q.Key {
		return errors.New("it is of another key")
	}
	parsed, err := x509.ParsePKIXPublicKey(a.Key)
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, q.digest(), a.Signature) {
		return errors.New("its signature is wrong")
	}
	return nil
}
