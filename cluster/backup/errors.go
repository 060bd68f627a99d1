package backup

import "errors"

// Errors compared by errors.Is.
var (
	// ErrDamaged is returned for a file that is no backup, or not as it was written.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrNewer is returned for a backup whose format this version does not know.
	ErrNewer = errors.New("the backup is of a newer version of meshvpc")
	// ErrPassphrase is returned when a passphrase does not open what was sealed.
	ErrPassphrase = errors.New("wrong passphrase")
	// ErrExists is returned when a file is there and was not to be replaced.
	ErrExists = errors.New("the file exists")
)
