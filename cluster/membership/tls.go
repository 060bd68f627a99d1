package membership

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// Credential is who a process is: a certificate, its key, and the CA that it
// trusts, all PEM. While one CA takes the place of another there are two, first the
// one that signs. StoreCA is that of the store if it is an external etcd, whose
// servers our CA does not certify; else nil.
type Credential struct{ CA, Cert, Key, StoreCA []byte }

// Files are where a Credential is kept; StoreCA may be "".
type Files struct{ CA, Cert, Key, StoreCA string }

// Load reads the files.
func (f Files) Load() (c Credential, err error) {
	for _, x := range []struct {
		path string
		to   *[]byte
	}{{f.CA, &c.CA}, {f.Cert, &c.Cert}, {f.Key, &c.Key}, {f.StoreCA, &c.StoreCA}} {
		if x.path == "" && x.to == &c.StoreCA {
			continue
		}
		if *x.to, err = os.ReadFile(x.path); err != nil {
			return Credential{}, fmt.Errorf("read credential: %w", err)
		}
	}
	return c, nil
}

// Load returns c.
func (c Credential) Load() (Credential, error) { return c, nil }

// Subject is whom the certificate speaks for. It is not verified.
func (c Credential) Subject() (cluster.Subject, error) {
	cert, err := parseCert(c.Cert)
	if err != nil {
		return cluster.Subject{}, fmt.Errorf("read certificate: %w", err)
	}
	return cluster.ParseSubject(cert.Subject.CommonName)
}

// CAPin names the CA that signs.
func (c Credential) CAPin() (Pin, error) {
	ca, err := parseCert(c.CA)
	if err != nil {
		return Pin{}, fmt.Errorf("read CA: %w", err)
	}
	return pinOf(ca), nil
}

// Old reports whether the certificate is to be renewed: a third of its time is
// left, another CA signs now, or it does not name all of addresses, or lacks what a
// server's has.
func (c Credential) Old(addresses []netip.Addr, now time.Time) (bool, error) {
	cert, err := parseCert(c.Cert)
	if err != nil {
		return false, fmt.Errorf("read certificate: %w", err)
	}
	if s, err := cluster.ParseSubject(cert.Subject.CommonName); err == nil && s.Kind == cluster.SubjectServer && cert.VerifyHostname(PeerName) != nil {
		return true, nil
	}
	named := map[netip.Addr]bool{}
	for _, ip := range cert.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			named[a.Unmap()] = true
		}
	}
	for _, a := range addresses {
		if !named[a.Unmap().WithZone("")] {
			return true, nil
		}
	}
	list, err := parseCAs(c.CA)
	if err != nil {
		return false, fmt.Errorf("read CA: %w", err)
	}
	if cert.CheckSignatureFrom(list[0]) != nil || len(list) == 1 && bytes.Count(c.Cert, []byte("-----BEGIN")) > 1 {
		return true, nil // another signs now, or the former one is gone
	}
	return cert.NotAfter.Sub(now) < cert.NotAfter.Sub(cert.NotBefore)/3, nil
}

// KeyHash names the certificate's key, as records do.
func (c Credential) KeyHash() (string, error) {
	cert, err := parseCert(c.Cert)
	if err != nil {
		return "", fmt.Errorf("read certificate: %w", err)
	}
	return hashKey(cert.RawSubjectPublicKeyInfo), nil
}

func (c Credential) pair() (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("read credential: %w", err)
	}
	return &pair, nil
}

// ErrUntrusted is returned when the other end of a connection is not certified
// by the cluster's CA as what it has to be.
var ErrUntrusted = errors.New("certificate is not trusted")

// ErrUntimely is returned, with ErrUntrusted, when the certificate of the other
// end does not hold now: it ended, or this host's clock is wrong.
var ErrUntimely = errors.New("not at this time")

// Dialer is the TLS side of a client that shows what load returns, and that
// talks to the cluster's servers only, whatever address they have.
func Dialer(load func() (Credential, error)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := load()
			if err != nil {
				return nil, err
			}
			return c.pair()
		},
		InsecureSkipVerify: true, // that is about host names; VerifyConnection verifies
		VerifyConnection: func(s tls.ConnectionState) error {
			c, err := load()
			if err != nil {
				return err
			}
			list, err := parseCAs(c.CA)
			if err != nil {
				return fmt.Errorf("read CA: %w", err)
			}
			return verifyServer(s.PeerCertificates, append(list, endorsed(s.PeerCertificates[1:], list, time.Now())...)...)
		},
	}
}

// StoreDialer is the TLS side of a client of the store, that of Dialer, or if
// load's credential has a StoreCA, one that trusts that CA and the names that it
// certifies. A change of StoreCA needs another StoreDialer.
func StoreDialer(load func() (Credential, error)) (*tls.Config, error) {
	cfg := Dialer(load)
	c, err := load()
	if err != nil || c.StoreCA == nil {
		return cfg, err
	}
	cfg.InsecureSkipVerify, cfg.VerifyConnection, cfg.RootCAs = false, nil, x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(c.StoreCA) {
		return nil, fmt.Errorf("read CA of the store: %w", ErrNoCertificate)
	}
	return cfg, nil
}

// PinnedDialer is the TLS side of a joiner, which knows nothing but the CA's
// pin. The server shows the CA's certificate with its own.
func PinnedDialer(pin Pin) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection verifies
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, ca := range s.PeerCertificates[1:] {
				if pinOf(ca) == pin {
					return verifyServer(s.PeerCertificates, ca)
				}
			}
			return fmt.Errorf("%w: it is not of the CA that the token names", ErrUntrusted)
		},
	}
}

// Listener is the TLS side of the join service: it shows the CA's certificate,
// too, and takes a certificate of the other end, or none. It does not verify that.
func Listener(load func() (Credential, error)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, err := load()
			if err != nil {
				return nil, err
			}
			pair, err := c.pair()
			if err != nil {
				return nil, err
			}
			ca, err := parseCert(c.CA)
			if err != nil {
				return nil, fmt.Errorf("read CA: %w", err)
			}
			pair.Certificate = append(pair.Certificate, ca.Raw)
			return pair, nil
		},
	}
}

func verifyServer(shown []*x509.Certificate, cas ...*x509.Certificate) error {
	roots := poolOf(cas)
	leaf := shown[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok && bad.Reason == x509.Expired {
			return fmt.Errorf("%w: %w: it holds from %s to %s; this host's clock says %s, is it right?", ErrUntrusted, ErrUntimely,
				leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
		}
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if s, err := cluster.ParseSubject(leaf.Subject.CommonName); err != nil || s.Kind != cluster.SubjectServer {
		return fmt.Errorf("%w: it is of %q, which is no server of this cluster", ErrUntrusted, cluster.CleanText(leaf.Subject.CommonName))
	}
	return nil
}
