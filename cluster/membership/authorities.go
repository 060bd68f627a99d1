package membership

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// parseCAs reads the CAs of a file, one or more: the first signs.
func parseCAs(text []byte) (list []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != typeCert {
			return nil, ErrNoCertificate
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, ca)
	}
	if len(list) == 0 {
		return nil, ErrNoCertificate
	}
	return list, nil
}

func poolOf(list []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range list {
		pool.AddCert(ca)
	}
	return pool
}

// String is the pin as records name it, 32 hexadecimal digits.
func (p Pin) String() string { return hex.EncodeToString(p[:]) }

// PinsOf are the pins of the CAs in a PEM text, in their order.
func PinsOf(text []byte) (pins []Pin, err error) {
	list, err := parseCAs(text)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	for _, ca := range list {
		pins = append(pins, pinOf(ca))
	}
	return pins, nil
}

// SharesCA reports whether two PEM texts have a CA in common.
func SharesCA(a, b []byte) bool {
	of, err1 := PinsOf(a)
	other, err2 := PinsOf(b)
	return err1 == nil && err2 == nil && slices.ContainsFunc(of, func(p Pin) bool { return slices.Contains(other, p) })
}

// Signer is the pin of the one of c's CAs that signed c's certificate.
func (c Credential) Signer() (Pin, error) {
	cert, err := parseCert(c.Cert)
	if err != nil {
		return Pin{}, fmt.Errorf("read certificate: %w", err)
	}
	list, err := parseCAs(c.CA)
	if err != nil {
		return Pin{}, fmt.Errorf("read CA: %w", err)
	}
	for _, ca := range list {
		if cert.CheckSignatureFrom(ca) == nil {
			return pinOf(ca), nil
		}
	}
	return Pin{}, fmt.Errorf("%w: none of this host's CAs has signed its own certificate", ErrUntrusted)
}

// keysOf reads the keys of CAs, one or more.
func keysOf(text []byte) (keys []crypto.Signer, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		key, err := ReadKey(pem.EncodeToMemory(block))
		if err != nil {
			return nil, err
		}
		keys = append(keys, key.signer)
	}
	if len(keys) == 0 {
		return nil, ErrNoCertificate
	}
	return keys, nil
}

// keyFor is the key that a CA's certificate is of, nil if it is not there.
func keyFor(ca *x509.Certificate, keys []crypto.Signer) crypto.Signer {
	for _, k := range keys {
		if pub, ok := k.Public().(interface{ Equal(crypto.PublicKey) bool }); ok && pub.Equal(ca.PublicKey) {
			return k
		}
	}
	return nil
}

// MergeKeys has a file of CA keys hold those, of it and of more, that the CAs in
// bundle are of, each once, in the order of the CAs. One that is missing is an
// error.
func MergeKeys(bundle, have, more []byte) ([]byte, error) {
	list, err := parseCAs(bundle)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	keys, err := keysOf(slices.Concat(have, more))
	if err != nil {
		return nil, fmt.Errorf("read CA keys: %w", err)
	}
	var out []byte
	for _, ca := range list {
		k := keyFor(ca, keys)
		if k == nil {
			return nil, fmt.Errorf("read CA keys: that of the CA %s is missing", pinOf(ca))
		}
		text, err := keyPEM(k)
		if err != nil {
			return nil, err
		}
		out = append(out, text...)
	}
	return out, nil
}

// endorsement is a certificate of ca by the CA before it, for those who trust only
// that one yet; our own clients follow it (see endorsed). Older CAs are made not to
// have any below them, so that other programs may not.
func (ca *CA) endorsement() ([]byte, error) {
	template := *ca.cert
	template.SerialNumber, template.NotAfter = serial(), earlier(ca.cert.NotAfter, ca.other.cert.NotAfter)
	template.AuthorityKeyId, template.Signature = nil, nil
	der, err := x509.CreateCertificate(rand.Reader, &template, ca.other.cert, ca.cert.PublicKey, ca.other.key)
	if err != nil {
		return nil, fmt.Errorf("endorse CA: %w", err)
	}
	return certPEM(der), nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// endorsed are CAs among the certificates that a server shows which one of roots
// has certified.
func endorsed(shown, roots []*x509.Certificate, now time.Time) (list []*x509.Certificate) {
	for _, ca := range shown {
		if !ca.IsCA || now.Before(ca.NotBefore) || now.After(ca.NotAfter) {
			continue
		}
		if slices.ContainsFunc(roots, func(r *x509.Certificate) bool {
			return now.Before(r.NotAfter) && ca.CheckSignatureFrom(r) == nil && !bytes.Equal(ca.Raw, r.Raw)
		}) {
			list = append(list, ca)
		}
	}
	return list
}

var errNotItsKey = errors.New("read CA key: it is not the key of the CA's certificate")
