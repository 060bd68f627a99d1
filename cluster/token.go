package cluster

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// TokenRole is what a token makes of its holder.
type TokenRole string

// The roles of tokens.
const (
	TokenNode    TokenRole = "node"
	TokenServer  TokenRole = "server"
	TokenWitness TokenRole = "witness"
)

// MaxTokenUses is how many may join with one token.
const MaxTokenUses = 1000

// Token is a token that was given out, at KeyToken. It is deleted when it is used
// up or revoked.
type Token struct {
	Needs   int       `json:"needs,omitempty"`
	Role    TokenRole `json:"role"`
	Hash    string    `json:"hash"` // SHA-256 of its secret, 64 hexadecimal digits
	Uses    int       `json:"uses"` // that are left
	Created Time      `json:"created"`
	Expires Time      `json:"expires"`
	By      string    `json:"by,omitempty"` // the subject that asked for it
}

// Validate checks role, hash, uses and times.
func (t *Token) Validate() error {
	switch {
	case t.Role != TokenNode && t.Role != TokenServer && t.Role != TokenWitness:
		return fmt.Errorf("%w token role %q", ErrInvalid, CleanText(string(t.Role)))
	case t.Uses < 1 || t.Uses > MaxTokenUses:
		return fmt.Errorf("%w uses %d: want 1 to %d", ErrInvalid, t.Uses, MaxTokenUses)
	case t.Expires.IsZero() || t.Expires.Before(t.Created.Time):
		return fmt.Errorf("%w expiry %q: want a time after creation", ErrInvalid, t.Expires)
	}
	if err := checkText("by", t.By); err != nil {
		return err
	}
	return checkHash("hash", t.Hash)
}

func checkHash(what, s string) error {
	if _, err := hex.DecodeString(s); err != nil || len(s) != 64 || strings.ToLower(s) != s {
		return fmt.Errorf("%w %s: want 64 hexadecimal digits", ErrInvalid, what)
	}
	return nil
}
