package main

// cniPlugin answers a container runtime; on FreeBSD none starts such plugins.
func cniPlugin([]string) (handled bool, exit int) { return false, 0 }
