// Package sim runs a whole cluster in one goroutine from one seed: the agents
// and controllers of the product over cluster/mvcc and fake kernels, with an
// operator who changes his mind and a world that goes wrong between any two
// steps. The same seed is the same run, to the letter.
//
//	queue of events ─► world ─┬─ node: watcher.Agent, its feeds, cache, lease, kernel
//	(time, seed)              ├─ candidate: controller.Leader, its feed and lease
//	                          ├─ operator: wishes, and mistakes
//	                          └─ faults
//
// What loops do in the product is an event here: a watch's answer that arrives
// late, in parts, or never; a write whose request or answer is lost; a cache
// that was not saved yet when the power failed; a lease that ran out. Every
// node has a clock of its own.
//
// A run is trouble for a while, then rest: faults are mended, the operator puts
// back what was deleted by mistake. At rest Check holds what must be true:
//
//   - every kernel is what the records say, and nobody writes any more;
//   - exactly the pairs that need it have a tunnel and a VNI of their own;
//   - no value is held twice and none leaks;
//   - a broadcast from any host reaches every member once, and nobody else
//     (computed on the graph of bridges, ports and tunnels).
//
// While trouble lasts, every revision is held to what must never be: one VNI of
// two VPCs or pairs, one VTEP address of two members, or a member at an underlay
// address that its node, though it may say so, never had.
//
// Services runs a world in which endpoints move by themselves, some of them exclusive
// strict; see acceptance for what it is held to.
//
// A gentle world has only what must cost members no frame: from when broadcasts
// pass between two of them, they always do, once.
package sim
