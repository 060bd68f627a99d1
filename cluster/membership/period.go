package membership

import (
	"crypto/x509"
	"fmt"
	"time"
)

// Period is when a certificate holds, both ends included (RFC 5280 §4.1.2.5).
type Period struct{ From, Until time.Time }

// Periods are those of the certificate and of the CA. Nothing is verified.
func (c Credential) Periods() (cert, ca Period, err error) {
	leaf, err := parseCert(c.Cert)
	if err != nil {
		return cert, ca, fmt.Errorf("read certificate: %w", err)
	}
	root, err := parseCert(c.CA)
	if err != nil {
		return cert, ca, fmt.Errorf("read CA: %w", err)
	}
	return periodOf(leaf), periodOf(root), nil
}

func periodOf(c *x509.Certificate) Period { return Period{c.NotBefore, c.NotAfter} }
