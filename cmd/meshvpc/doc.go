// Meshvpc builds private layer 2 networks (VPCs) across hosts in any
// datacenters. One binary holds the operator's commands and the two services,
// `meshvpc server` and `meshvpc agent`.
//
// This package is flags, files, output and exit codes, one file per noun. What
// it knows of the cluster it reads from records (package cluster) through
// package store; what it asks for it writes as the operator's records, and
// then waits, by watch, until other records say that it is so. Sub-steps:
//
//	argv.go      flags before or after positionals, unknown ones refused
//	program.go   the command tree, and what every command shares
//	errors.go    the two lines that a failure prints, and the exit code
//	output.go    -o table|json|yaml; text from other machines is cleaned
//	config.go    client.yaml, agent.yaml, server.yaml
//	session.go   the connection to the store, bounded in time
//	external.go  an etcd of the operator's, and what is wrong with it
//	mesh.go      whether a VPC is as asked, a pure function of its records
//	service.go   systemd and rc.d: what is found, planned (pure), and done
//	node_add.go  a host added over SSH: what it says, planned (pure), and done
//	ssh.go       the conversation with a host: its key, the login, commands
//	cni_linux.go whether a container runtime has started the program
//	notify.go    what the two services tell a service manager
//	apply.go     a file of documents (package document): plan, confirm, write, wait
//
// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not (yet) so. Progress goes to
// stderr, and only to a terminal; stdout carries the result alone.
package main
