package backup

import "time"

// format is the version of the file's layout.
const format = 1

// The parts of a backup, and what describes them.
const (
	CA    = "ca.crt"
	CAKey = "ca.key.sealed"
	Store = "store.db"

	manifestName = "manifest.json"
	sumName      = manifestName + ".sha256"
)

// Manifest says what a backup is of. Write sets Format and Parts.
type Manifest struct {
	Format    int       `json:"format"`
	Version   string    `json:"version"` // of the meshvpc that made it
	Time      time.Time `json:"time"`
	Cluster   string    `json:"cluster"` // name for people
	ClusterID string    `json:"cluster_id"`
	Era       int64     `json:"era"`
	Revision  int64     `json:"revision"` // of the store
	// Parts are by name.
	Parts map[string]Sum `json:"parts"`
}

// Sum is how a part is known again.
type Sum struct {
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}
