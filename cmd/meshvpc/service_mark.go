package main

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// markPrefix begins the last line of a unit that `service install` wrote; the
// checksum of all before it follows.
const markPrefix = `# written by "meshvpc service install", sha256 of the lines above: `

// origin is whose a unit's file is.
type origin string

const (
	originNone    origin = ""        // there is no file
	originOurs    origin = "ours"    // as `service install` wrote it
	originEdited  origin = "edited"  // and changed by hand since
	originForeign origin = "foreign" // somebody else's
)

// marked is a unit's text with our mark below it.
func marked(text string) string { return text + markPrefix + checksum(text) + "\n" }

// originOf tells whose a file with that text is.
func originOf(text string) origin {
	above, sum, found := strings.Cut(text, markPrefix)
	switch {
	case !found:
		return originForeign
	case strings.TrimSuffix(sum, "\n") != checksum(above):
		return originEdited
	}
	return originOurs
}

func checksum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
