// Package hooks runs what a host has for its workloads: for each a directory of that
// name, with the programs start, stop and check.
//
// Nothing that is run comes from the store but its name and the words in its
// environment:
//
//	EP VPC         the endpoint and its VPC
//	ERA EPOCH      of its owner: a pair that only grows, to fence a store of data by
//	ROLE           owner or standby: what this host is to be afterwards
//	REASON         why, for people
//	IP MAC         the endpoint's; several addresses are joined by a comma
//
// and PATH, HOME and LANG of the agent. A program is run only if it, its directory and
// all directories above belong to root, or to the agent's own user, and nobody else
// may write to them: that is looked at each time, from the root down, each by a
// descriptor of the one above. As nobody else can change any of them, what is run then
// is what was looked at.
//
// # What a program has to bear
//
// Each may be run again at any time: start of what runs, stop of what does not. It
// runs as the agent, in its sandbox: what it starts best asks the host's service
// manager, so that it belongs to that. It has a session of its own. When its time is
// over all of its process group is killed, and what it has started there; a program
// that has ended in time is not looked after any more. Its output, at most 4 KiB, is
// in the log. What outlives it has to write elsewhere: nobody reads that any more.
//
// A program ends with the agent: at the latest when the agent's process does, which
// the kernel sees to, though not what it started in turn. The next agent runs it
// anew.
package hooks
