// Package etcd runs an etcd server inside this process: the default engine.
//
// It starts one member: alone in a new cluster, or, with Config.Join, as one more
// of those that there are, which has been made a learner before. The settings are
// those that a control plane with many watches wants: hourly compaction (who
// was away longer reads everything again), a 2 GiB quota, corruption checks,
// no HTTP gateway.
//
// # Guarantees
//
// Run returns when all that it started has ended. What was acknowledged
// survives kill -9 and a power cut (but not under Config.NoSync). A data
// directory serves one process at a time. A store that cannot be read as it was
// written is ErrDamaged, if that shows at the start.
//
// # A full disk
//
// What fails when the disk is full, read-only or broken ends Run with ErrFull,
// ErrReadOnly or ErrFailing, where etcd would end the process; what was acknowledged
// is there at the next start. A file, the ballast, keeps up to 64 MiB back: below
// that much free space it is given up and the database compacted; below 16 MiB,
// without it, Run ends in good order. A disk with less than 1 GiB free is warned of.
//
// # Stopping
//
// A member that is told to stop refuses nothing. If it leads, it has all members hold
// still first (Hold, Config.HoldOthers), for moments, and hands over: what a leader
// gets while it does is dropped without a word. Then clients are told to go elsewhere,
// what is under way is answered, and the rest is cut after 3 s. That of a store of one
// or two voters stops writes until the member is back.
//
// # Trap
//
// After such an error parts of etcd stay as they were, listeners too: the process is
// to end. etcd may end it by itself, by a panic that is no disk's fault. So an engine
// belongs in a process that may die at any instant; the host agent never shares it.
package etcd
