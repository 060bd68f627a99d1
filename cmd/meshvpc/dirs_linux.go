package main

// defaultDirs are the places of the Filesystem Hierarchy Standard.
var defaultDirs = dirs{config: "/etc/meshvpc", state: "/var/lib/meshvpc", run: "/run/meshvpc"}
