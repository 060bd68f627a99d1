// Package cni is the CNI plugin: a container runtime starts it for each container
// that comes or goes, and it asks the host's agent (package local). It holds
// nothing, changes nothing itself, and speaks version 1.1 of the specification and
// all before it, by the reference library; so it is for Linux alone.
//
// # What runs where
//
// VPC and endpoint come from the network's configuration, which is root's file;
// nothing that a runtime passes on from its users (CNI_ARGS, the environment,
// capabilities) chooses either. A configuration without an endpoint gives each
// container one of its own, made for it and gone with it, by the name that
// endpointOf says; one with an endpoint gives that to the one container that has it
// at a time, and it stays. Addresses are the VPC's (no ipam). A key that is not
// known is refused: a typing error must not put a container elsewhere.
//
// # Operations
//
// ADD returns when frames pass. It refuses a device name that is taken in the
// container. What ADD could not attach after all it has taken away; a runtime has
// to send DEL all the same, and may after any ADD that was cut short.
//
// Another plugin may stand before this one, unless it made the device that the
// runtime names: its result is passed on, ours after it. Plugins after it find the
// host's device in the result. Those that map ports of the host (portmap) cannot
// work: a host is not in its VPCs.
//
// DEL takes away what the attachment has, and only that: where a fixed endpoint has
// gone to another container meanwhile, it stays. It succeeds if there is nothing to
// take away, without a namespace, and without a store, for the agent remembers. If
// no agent answers it succeeds when the namespace is gone, which the agent finds by
// itself, or the host is no node any more; else it is "try again later" (11), because
// the agent would attach a living container again.
//
// CHECK compares the last result with what the agent says and with what is in the
// container's namespace. MTU and other routes than ours are for plugins after this
// one to change, and so is the MAC if the configuration says trust.
//
// GC takes away what carries the network's name and is not in the runtime's list,
// goes on after a failure, and tells all failures.
//
// STATUS is 50 without an agent, a VPC that is up or a store, for new containers
// cannot be had then (those that are there go on), and 51 when the VPC's tunnels are
// all down.
//
// # While an agent restarts
//
// Questions are put again for some seconds while no agent answers, or one went away
// without an answer: the agent's upgrade fails no container. All questions say what
// should be, so that asking twice is the same as once. What is refused is not asked
// again.
package cni
