package cluster

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
)

// TrustPhase is how far the replacement of the cluster's CA is.
type TrustPhase string

// The phases, in their order. Everybody is in one before the next begins.
const (
	TrustAdd  TrustPhase = "trust" // all learn to trust the new CA; the old one signs
	TrustSign TrustPhase = "renew" // the new CA signs; all take certificates of it
	TrustDrop TrustPhase = "drop"  // all forget the old CA
	TrustDone TrustPhase = "done"
)

// Trust is which CAs certify the cluster, in Config; nil while it has the one
// that it began with.
type Trust struct {
	Phase TrustPhase `json:"phase"`
	// CAs are certificates, PEM: first the one that signs, then the other that is
	// trusted, if any.
	CAs   []string `json:"cas"`
	Since Time     `json:"since"` // the replacement began
	// LeftBehind are nodes and servers that are not waited for.
	LeftBehind []string `json:"left_behind,omitempty"`
}

// Bundle is the CAs as files hold them.
func (t *Trust) Bundle() []byte {
	var b []byte
	for _, ca := range t.CAs {
		b = append(b, ca...)
	}
	return b
}

// Waits reports whether a node or server of a name is waited for.
func (t *Trust) Waits(name string) bool { return !slices.Contains(t.LeftBehind, name) }

func (t *Trust) validate() error {
	want := 2
	switch t.Phase {
	case TrustAdd, TrustSign:
	case TrustDrop, TrustDone:
		want = 1
	default:
		return fmt.Errorf("%w trust: phase %q", ErrInvalid, CleanText(string(t.Phase)))
	}
	if len(t.CAs) != want {
		return fmt.Errorf("%w trust: %d CAs in phase %s, want %d", ErrInvalid, len(t.CAs), t.Phase, want)
	}
	for _, text := range t.CAs {
		block, rest := pem.Decode([]byte(text))
		if block == nil || len(rest) > 0 {
			return fmt.Errorf("%w trust: a CA is no PEM certificate that ends with a new line", ErrInvalid)
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err != nil || !cert.IsCA {
			return fmt.Errorf("%w trust: a CA is no certificate of a CA", ErrInvalid)
		}
	}
	for _, name := range t.LeftBehind {
		if err := CheckNodeName(name); err != nil {
			return fmt.Errorf("%w trust: left behind: %w", ErrInvalid, err)
		}
	}
	return nil
}

// Trusting is what a node or server trusts, as it said itself, at KeyNodeTrust or
// KeyServerTrust. CAs are named by their pins, 32 hexadecimal digits.
type Trusting struct {
	Needs  int      `json:"needs,omitempty"`
	CAs    []string `json:"cas"`    // first the one that signs
	Signer string   `json:"signer"` // of the certificate that it shows
	At     Time     `json:"at"`
}

// Validate checks the pins' lengths.
func (t *Trusting) Validate() error {
	if len(t.CAs) > 8 {
		return fmt.Errorf("%w trust: %d CAs", ErrInvalid, len(t.CAs))
	}
	for _, pin := range append(slices.Clone(t.CAs), t.Signer) {
		if err := checkHash("pin", pin+pin); err != nil {
			return err
		}
	}
	return nil
}
