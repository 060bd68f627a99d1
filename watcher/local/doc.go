// Package local is what a host's agent is asked on its socket about workloads,
// and a client that asks. The agent's side is package watcher; the command line
// and the CNI plugin are clients.
//
// The socket is root's: whoever may ask is the host's administrator, or a runtime
// in its name.
package local
