package main

// defaultDirs are the places of hier(7).
var defaultDirs = dirs{config: "/usr/local/etc/meshvpc", state: "/var/db/meshvpc", run: "/var/run/meshvpc"}
