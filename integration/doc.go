// Package integration holds the end-to-end tests: real agents, a real store and
// real kernels, on hosts that are network namespaces (package lab).
package integration
