package membership

import (
	"crypto/sha256"
	"crypto/x509"
)

// Pin names a CA: the first half of the SHA-256 of its public key (the
// SubjectPublicKeyInfo, as RFC 7469 §2.4 takes it). To find another key of the
// same 128 bits is out of reach.
type Pin [16]byte

func pinOf(ca *x509.Certificate) (p Pin) {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	copy(p[:], sum[:])
	return p
}
