// Package integration holds the end-to-end tests: real agents, a real store and
// real kernels, on hosts that are network namespaces (package lab). What clients saw
// while servers could not reach each other is judged by package history.
package integration
