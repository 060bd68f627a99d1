package main

// hostManager is the service manager that is spoken to on FreeBSD.
func hostManager() manager { return rcd() }
