// Package backup is the file that a cluster is kept in: a snapshot of its store,
// its CA and a manifest.
//
// The file is a tar archive, so that its parts can be taken out by hand:
//
//	manifest.json         what it is, and the SHA-256 of each part
//	manifest.json.sha256  of that
//	ca.crt                the certificate of the cluster's CA
//	ca.key.sealed         its key, see Seal; may be missing
//	store.db              etcd's snapshot, as `etcdutl snapshot status` reads it
//
// # Guarantees
//
// A file is there whole or not at all, of mode 0600, and was read back before it
// got its name. Open reads all of it and hands out nothing of one whose sums are
// wrong (ErrDamaged). The sums find accidents; they are no proof of who made the
// file.
package backup
