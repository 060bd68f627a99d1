package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// attachment is a device of a container in a network: what a runtime adds and
// deletes.
type attachment struct{ network, container, device string }

// endpointOf is the name of the endpoint that is made for an attachment: "cni-" and
// 16 hex digits that go with it and the node, since container IDs that people
// choose are not unique among hosts.
func endpointOf(node string, a attachment) string {
	return madePrefix + hash(node, a.network, a.container, a.device)
}

const madePrefix = "cni-"

// isMade reports whether an endpoint was made for an attachment, by its name: what
// the agent says of that comes later than the name.
func isMade(endpoint string) bool {
	return strings.HasPrefix(endpoint, madePrefix) && len(endpoint) == len(madePrefix)+hashDigits
}

// owner says whose an attachment is, in AttachRequest.For: at most 255 bytes, and
// different for each.
func (a attachment) owner() string {
	return ownersOf(a.network) + bounded(a.container) + "/" + a.device
}

// ownersOf is what the owners of a network's attachments begin with, and no other's.
func ownersOf(network string) string { return "cni/" + bounded(network) + "/" }

// maxWord is how many bytes of a name are told, unless it is longer.
const maxWord = 100

// bounded is a name, or of a long one the beginning and what goes with the whole,
// behind a character that no name has.
func bounded(s string) string {
	if len(s) <= maxWord {
		return s
	}
	return s[:maxWord] + "~" + hash(s)
}

const hashDigits = 16

// hash is hashDigits hex digits that go with words, none of which has a zero byte.
func hash(words ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:hashDigits/2])
}
