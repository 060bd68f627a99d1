package membership

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// RevocationList is a list of the certificates of servers' keys, as Node.Revoked
// has them, for a server's own port for other servers: whoever is on it is not
// let in there (X.509 CRL, DER). It stays on the host and proves nothing to
// others, so that a witness, which has no CA key, makes its own: it is signed by a
// key that is forgotten at once.
func RevocationList(keys []string, now time.Time) ([]byte, error) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("list revoked certificates: %w", err)
	}
	list := &x509.RevocationList{Number: big.NewInt(now.UnixMilli()), ThisUpdate: now, NextUpdate: now.Add(lifeOfCA)}
	for _, key := range keys {
		n, err := serialOfHash(key)
		if err != nil {
			return nil, fmt.Errorf("list revoked certificates: %w", err)
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: now})
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "this server"}, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, signer)
	if err != nil {
		return nil, fmt.Errorf("list revoked certificates: %w", err)
	}
	return der, nil
}
