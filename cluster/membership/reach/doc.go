// Package reach finds out whether a host is where it says it is: a server asks at
// an address, by one datagram to UDP port Port with a fresh nonce, and the holder
// of a node's key answers from there, signed by that key.
//
//	question  "mv-ask-1" nonce(32) key(32) address(16) zeros to 256 bytes
//	answer    "mv-ans-1" nonce(32) length(1) public key  length(1) signature
//
// key is the SHA-256 of the public key (SubjectPublicKeyInfo), as a node's record
// has it; the signature is of what follows "mv-ask-1" in the question, without
// the zeros, after a text of our own, so that it is good for nothing else. Who
// did not get the question does not know its nonce: neither a host that names
// another's address, nor one that sends from a forged one, can answer. The key is
// one node's of one cluster, so that neither has to be named besides.
//
// # What it costs others
//
// A host is silent to all but questions for its own key, which nobody knows who
// does not read the cluster's records. An answer is smaller than its question, so
// that nobody is flooded by way of a host, and each source, and all together, get
// a few answers a second (see perSource, perHost).
//
// A question by Ask goes to where a node says that it is, which may be a stranger: a
// few datagrams with growing pauses, from servers only. An Asker asks where members of
// VPCs are known to be, again and again: nodes that observe others do.
package reach
