// Package history judges what clients of a store saw of it while something was
// broken: whether each of their operations could have happened at one moment
// between its call and its return (linearizability), whether the store has every
// write that it acknowledged, and none that it refused or was asked for once and
// has twice.
//
// A key is a register: its value and the revision of its last write, 0 before the
// first. Every write of a history writes another value, so that a value names the
// write. Besides what clients saw, Check takes what the store itself says of its
// past, all events of the keys from the first revision on: an operation without an
// answer either is among them, or never was.
package history
