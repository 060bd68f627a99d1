package backup

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// sealed begins what Seal makes, and names how: Argon2id with the second
// recommendation of RFC 9106 §4 (3 passes, 64 MiB, 4 lanes) over a salt of 16
// bytes gives the key of XChaCha20-Poly1305. The salt and the nonce follow.
var sealed = []byte("meshvpc sealed 1\n")

const saltSize = 16 // bytes

// Seal encrypts a secret under a passphrase. About is what the secret belongs to:
// it opens only beside that again.
func Seal(secret, passphrase, about []byte) ([]byte, error) {
	salt := make([]byte, saltSize+chacha20poly1305.NonceSizeX)
	_, _ = rand.Read(salt) // never fails, since Go 1.24
	box, err := boxOf(passphrase, salt[:saltSize])
	if err != nil {
		return nil, err
	}
	return box.Seal(bytes.Join([][]byte{sealed, salt}, nil), salt[saltSize:], secret, about), nil
}

// Unseal is the secret again. ErrPassphrase: the passphrase is another one.
func Unseal(text, passphrase, about []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(text, sealed)
	if !ok || len(rest) < saltSize+chacha20poly1305.NonceSizeX {
		return nil, fmt.Errorf("unseal: %w", ErrDamaged)
	}
	box, err := boxOf(passphrase, rest[:saltSize])
	if err != nil {
		return nil, err
	}
	rest = rest[saltSize:]
	secret, err := box.Open(nil, rest[:box.NonceSize()], rest[box.NonceSize():], about)
	if err != nil {
		return nil, ErrPassphrase
	}
	return secret, nil
}

func boxOf(passphrase, salt []byte) (cipher.AEAD, error) {
	return chacha20poly1305.NewX(argon2.IDKey(passphrase, salt, 3, 64<<10, 4, chacha20poly1305.KeySize))
}
