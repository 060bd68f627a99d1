package membership

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// How long certificates hold. They begin a little before they are made, since
// clocks differ.
const (
	lifeOfCA   = 10 * 365 * 24 * time.Hour
	lifeOfLeaf = 365 * 24 * time.Hour
	skew       = time.Hour
)

// ErrNoCertificate is returned for what should be PEM of a certificate or key
// and is not.
var ErrNoCertificate = errors.New("no PEM certificate or key")

// CA is a cluster's certificate authority.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer
	// other is the CA whose place this one takes, while both are trusted.
	other *CA
}

// NewCA makes the CA of a new cluster. Name is for people.
func NewCA(name string, now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name + " CA"},
		NotBefore: now.Add(-skew), NotAfter: now.Add(lifeOfCA),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1, // for the CA that will take its place
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	return &CA{cert: cert, key: key}, nil
}

// ReadCA is the CA of PEM texts, as CertPEM and KeyPEM give them. Of several it is
// the first, and the second is the one whose place it takes, if its key is there.
func ReadCA(certPEM, keyPEM []byte) (*CA, error) {
	list, err := parseCAs(certPEM)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	keys, err := keysOf(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read CA key: %w", err)
	}
	ca := &CA{cert: list[0], key: keyFor(list[0], keys)}
	if ca.key == nil {
		return nil, errNotItsKey
	}
	if len(list) > 1 {
		if key := keyFor(list[1], keys); key != nil {
			ca.other = &CA{cert: list[1], key: key}
		}
	}
	return ca, nil
}

// CertPEM is the CA's certificate.
func (ca *CA) CertPEM() []byte { return certPEM(ca.cert.Raw) }

// KeyPEM is the CA's key, PKCS #8.
func (ca *CA) KeyPEM() ([]byte, error) { return keyPEM(ca.key) }

// Pin names the CA.
func (ca *CA) Pin() Pin { return pinOf(ca.cert) }

// Issue certifies that the holder of a key is s. Only a server's certificate
// serves; addresses are where, for clients that look at them, as etcdctl does. While
// the CA takes the place of another, a server's text has what shows that, too.
func (ca *CA) Issue(key crypto.PublicKey, s cluster.Subject, addresses []netip.Addr, now time.Time) (text []byte, err error) {
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: s.String()},
		NotBefore: now.Add(-skew), NotAfter: now.Add(lifeOfLeaf), BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if s.Kind == cluster.SubjectServer {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		if template.SerialNumber, err = serialOfKey(key); err != nil {
			return nil, fmt.Errorf("issue certificate of %s: %w", s, err)
		}
		template.DNSNames = []string{s.Name, "localhost", PeerName}
		for _, a := range addresses {
			template.IPAddresses = append(template.IPAddresses, net.IP(a.Unmap().WithZone("").AsSlice()))
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate of %s: %w", s, err)
	}
	text = certPEM(der)
	if s.Kind == cluster.SubjectServer && ca.other != nil {
		chain, err := ca.endorsement()
		if err != nil {
			return nil, err
		}
		text = append(text, chain...)
	}
	return text, nil
}

// Reissue is a younger certificate of c's key and subject.
func (ca *CA) Reissue(c Credential, addresses []netip.Addr, now time.Time) ([]byte, error) {
	s, err := c.Subject()
	if err != nil {
		return nil, err
	}
	key, err := ReadKey(c.Key)
	if err != nil {
		return nil, err
	}
	return ca.Issue(key.signer.Public(), s, addresses, now)
}

// Credential makes a key and its certificate.
func (ca *CA) Credential(s cluster.Subject, addresses []netip.Addr, now time.Time) (Credential, error) {
	key, err := NewKey()
	if err != nil {
		return Credential{}, err
	}
	cert, err := ca.Issue(key.signer.Public(), s, addresses, now)
	return Credential{CA: ca.CertPEM(), Cert: cert, Key: key.PEM}, err
}

// Key is a private key that a certificate is asked for.
type Key struct {
	PEM    []byte // PKCS #8
	signer crypto.Signer
}

// Signer signs by the key.
func (k Key) Signer() crypto.Signer { return k.signer }

// NewKey makes a key.
func NewKey() (Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	text, err := keyPEM(k)
	return Key{text, k}, err
}

// ReadKey is the key of a PEM text.
func ReadKey(text []byte) (Key, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return Key{}, fmt.Errorf("read key: %w", ErrNoCertificate)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("read key: %w", err)
	}
	k, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("read key: %T is not one of ours", parsed)
	}
	return Key{text, k}, nil
}

// Request asks for a certificate of the key (PKCS #10, PEM). It proves that the
// sender has the key; whom it speaks for, the CA decides.
func (k Key) Request() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k.signer)
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: typeRequest, Bytes: der}), nil
}

// wanted is the key that a request is about, and its KeyHash.
type wanted struct {
	key  crypto.PublicKey
	hash string
}

// requested reads a request, from whomever.
func requested(text []byte) (wanted, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != typeRequest || len(rest) > 0 {
		return wanted{}, fmt.Errorf("read certificate request: %w", ErrNoCertificate)
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return wanted{}, fmt.Errorf("read certificate request: %w", err)
	}
	k, ok := r.PublicKey.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() { // before the signature: a large RSA key is a tenth of a second of work
		return wanted{}, fmt.Errorf("read certificate request: want a key of ECDSA P-256, not %v", r.PublicKeyAlgorithm)
	}
	if err := r.CheckSignature(); err != nil {
		return wanted{}, fmt.Errorf("read certificate request: %w", err)
	}
	return wanted{k, hashKey(r.RawSubjectPublicKeyInfo)}, nil
}

// PeerName is a host name in the certificates of servers, and in no other: by it
// they know each other where only host names can be asked for. No node has it,
// since it has a dot.
const PeerName = "server.meshvpc"

// serialOfKey is the serial number of all certificates of a server's key, so that
// a revocation list names them all by what the records say.
func serialOfKey(key crypto.PublicKey) (*big.Int, error) {
	info, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return serialOfHash(hashKey(info))
}

func serialOfHash(hash string) (*big.Int, error) {
	b, err := hex.DecodeString(hash)
	if err != nil || len(b) != sha256.Size {
		return nil, fmt.Errorf("%q is no hash of a key", cluster.CleanText(hash))
	}
	b = b[:16]
	b[0] &= 0x7f // RFC 5280 §4.1.2.2: positive
	return new(big.Int).SetBytes(b), nil
}

// hashKey is how records name a public key: the SHA-256 of its
// SubjectPublicKeyInfo, in hexadecimal.
func hashKey(info []byte) string {
	sum := sha256.Sum256(info)
	return hex.EncodeToString(sum[:])
}

const (
	typeCert    = "CERTIFICATE"
	typeKey     = "PRIVATE KEY"
	typeRequest = "CERTIFICATE REQUEST"
)

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typeCert, Bytes: der})
}

func keyPEM(k crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: typeKey, Bytes: der}), nil
}

func parseCert(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != typeCert {
		return nil, ErrNoCertificate
	}
	return x509.ParseCertificate(block.Bytes)
}

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, since Go 1.24
	b[0] &= 0x7f        // RFC 5280 §4.1.2.2: positive
	return new(big.Int).SetBytes(b)
}
