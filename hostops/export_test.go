package hostops

// For the tests of what a plan promises.
var (
	Batches = batches
	IsEntry = isEntry
)
