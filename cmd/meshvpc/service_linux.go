package main

// hostManager is the service manager that is spoken to on Linux.
func hostManager() manager { return systemd() }
