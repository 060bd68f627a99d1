package membership

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// Token lets its holder join a cluster: it says which, by the CA's pin, as what,
// and proves that somebody with the right to ask was asked.
type Token struct {
	Role   cluster.TokenRole
	Pin    Pin
	ID     [5]byte  // of its record
	Secret [16]byte // of which the record has a hash
}

// ErrToken is returned for a text that is no token, or a mistyped one.
var ErrToken = errors.New("no valid token")

// NewToken makes a token of a CA.
func NewToken(role cluster.TokenRole, ca Pin) Token {
	t := Token{Role: role, Pin: ca}
	_, _ = rand.Read(t.ID[:]) // never fails, since Go 1.24
	_, _ = rand.Read(t.Secret[:])
	return t
}

const tokenPrefix = "mv1-"

// tokenText has no letter that looks like another one or like a digit, and does
// not care about case.
var tokenText = base32.NewEncoding("abcdefghjkmnpqrstuvwxyz023456789").WithPadding(base32.NoPadding)

// String is the token's text: "mv1-", then letters and digits that hold role,
// pin, id, secret and a checksum.
func (t Token) String() string {
	b := []byte{byte(roleNumber(t.Role))}
	b = append(append(append(b, t.Pin[:]...), t.ID[:]...), t.Secret[:]...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return tokenPrefix + tokenText.EncodeToString(b)
}

// ParseToken reads a token's text, with spaces around it or none; what is none
// wraps ErrToken and says what is wrong, but not the text.
func ParseToken(s string) (Token, error) {
	rest, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(s)), tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("%w: it does not begin with %q", ErrToken, tokenPrefix)
	}
	b, err := tokenText.DecodeString(rest)
	var t Token
	const n = 1 + len(t.Pin) + len(t.ID) + len(t.Secret)
	switch {
	case err != nil:
		return Token{}, fmt.Errorf("%w: it is mistyped, no token has all of these characters", ErrToken)
	case len(b) != n+4:
		return Token{}, fmt.Errorf("%w: it has %d characters, want %d", ErrToken, len(rest), tokenText.EncodedLen(n+4))
	case crc32.ChecksumIEEE(b[:n]) != binary.BigEndian.Uint32(b[n:]):
		return Token{}, fmt.Errorf("%w: it is mistyped, the checksum does not fit", ErrToken)
	case int(b[0]) >= len(roles):
		return Token{}, fmt.Errorf("%w: it is of a newer version", ErrToken)
	}
	t.Role = roles[b[0]]
	b = b[1+copy(t.Pin[:], b[1:]):]
	b = b[copy(t.ID[:], b):]
	copy(t.Secret[:], b)
	return t, nil
}

// roles by their number in a token's text.
var roles = []cluster.TokenRole{cluster.TokenNode, cluster.TokenServer, cluster.TokenWitness}

func roleNumber(r cluster.TokenRole) int {
	for i, x := range roles {
		if x == r {
			return i
		}
	}
	panic(fmt.Sprintf("token of role %q", r)) // a programmer's mistake
}

// IsToken reports whether s looks like a token's text.
func IsToken(s string) bool { return strings.HasPrefix(strings.ToLower(s), tokenPrefix) }

// RecordID is the name of the token's record.
func (t Token) RecordID() string { return hex.EncodeToString(t.ID[:]) }

// Hash is what the record keeps of the secret.
func (t Token) Hash() string { return hashSecret(t.Secret[:]) }

// Record is the record of the token when it is given out.
func (t Token) Record(uses int, now time.Time, life time.Duration, by string) *cluster.Token {
	return &cluster.Token{Role: t.Role, Hash: t.Hash(), Uses: uses, Created: cluster.At(now), Expires: cluster.At(now.Add(life)), By: by}
}

func hashSecret(secret []byte) string {
	sum := sha256.Sum256(append([]byte("meshvpc token "), secret...))
	return hex.EncodeToString(sum[:])
}
