package main

// remount makes of a mount point the command that lets it be written.
const remount = "mount -o remount,rw %s"
