package etcd

import "os"

// ownMounts in the environment says that this process has mounts of its own.
const ownMounts = "MESHVPC_TEST_MOUNTS"

// HasOwnMounts reports whether this process may mount what it likes. Its etcds may
// have broken, and left much behind.
func HasOwnMounts() bool { return os.Getenv(ownMounts) != "" }
