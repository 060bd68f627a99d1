package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"
)

func certificateOf(t *testing.T, isCA bool) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: isCA, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestTrustValidates(t *testing.T) {
	a, b, leaf := certificateOf(t, true), certificateOf(t, true), certificateOf(t, false)
	for name, tt := range map[string]struct {
		trust Trust
		ok    bool
	}{
		"learning":            {Trust{Phase: TrustAdd, CAs: []string{a, b}}, true},
		"signing":             {Trust{Phase: TrustSign, CAs: []string{b, a}, LeftBehind: []string{"n1"}}, true},
		"forgetting":          {Trust{Phase: TrustDrop, CAs: []string{b}}, true},
		"over":                {Trust{Phase: TrustDone, CAs: []string{b}}, true},
		"one too few":         {Trust{Phase: TrustAdd, CAs: []string{a}}, false},
		"one too many":        {Trust{Phase: TrustDone, CAs: []string{a, b}}, false},
		"no phase":            {Trust{CAs: []string{a, b}}, false},
		"no CA":               {Trust{Phase: TrustDone, CAs: []string{leaf}}, false},
		"no certificate":      {Trust{Phase: TrustDone, CAs: []string{"x"}}, false},
		"two in one":          {Trust{Phase: TrustDone, CAs: []string{a + b}}, false},
		"a name that is none": {Trust{Phase: TrustDone, CAs: []string{a}, LeftBehind: []string{"A B"}}, false},
	} {
		c := &Config{Cluster: "home", ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: DefaultVNIRange, Trust: &tt.trust}
		if err := c.Validate(); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
