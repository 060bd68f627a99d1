package cluster

import "fmt"

// UserRole is what a person may do.
type UserRole string

// The roles of users. Each may do what the next may.
const (
	UserAdmin    UserRole = "admin"    // everything that is done through the store
	UserOperator UserRole = "operator" // change VPCs and nodes
	UserViewer   UserRole = "viewer"   // read, all but tokens
)

// User is who holds a credential of the subject "user:<name>", at KeyUser.
// Without the record the credential opens nothing.
type User struct {
	Needs   int      `json:"needs,omitempty"`
	Role    UserRole `json:"role"`
	Key     string   `json:"key"` // SHA-256 of its public key (SubjectPublicKeyInfo), 64 hexadecimal digits
	Created Time     `json:"created"`
	By      string   `json:"by,omitempty"` // the subject that asked for it
}

// Validate checks the role and the key.
func (u *User) Validate() error {
	if u.Role != UserAdmin && u.Role != UserOperator && u.Role != UserViewer {
		return fmt.Errorf("%w user role %q: want admin, operator or viewer", ErrInvalid, CleanText(string(u.Role)))
	}
	if err := checkText("by", u.By); err != nil {
		return err
	}
	return checkHash("key", u.Key)
}
