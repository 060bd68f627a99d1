// Package enginetest holds every engine of meshvpc to the same behaviour.
//
// Run is the contract: readable cases of mvcc.KV that a store must pass.
// Differential applies a seeded stream of random operations to a store and to
// mvcc.Memory and compares every answer and every watch, revisions included;
// only lease IDs and cluster IDs may differ. Since the streams also run against
// an embedded etcd, mvcc is held to etcd, and each later engine to both.
//
// Both also run against a stock etcd in its own process, over TLS and with
// authentication on, as an operator has one.
//
// StartEtcd gives tests of other packages an embedded etcd, StartExternal such a
// stock one.
package enginetest
