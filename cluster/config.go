package cluster

import "fmt"

// Config is what holds for the whole cluster, at KeyConfig.
type Config struct {
	Needs   int    `json:"needs,omitempty"`
	Cluster string `json:"cluster"` // name for people
	ID      string `json:"id"`      // random; another id is another cluster
	// Era grows when a store is restored or recovered; a host that has seen a
	// higher one holds what it has.
	Era          int64    `json:"era"`
	UnderlayPort uint16   `json:"underlay_port"` // UDP, of all tunnels
	VNIs         VNIRange `json:"vni_range"`
	Encryption   string   `json:"encryption"` // "none" until the underlay can encrypt
}

// DefaultUnderlayPort is the UDP port of VXLAN (RFC 7348 §8).
const DefaultUnderlayPort = 4789

// Validate checks ids, port and range.
func (c *Config) Validate() error {
	switch {
	case c.ID == "":
		return fmt.Errorf("%w config: id is empty", ErrInvalid)
	case c.Era < 1:
		return fmt.Errorf("%w config: era %d, want 1 or more", ErrInvalid, c.Era)
	case c.UnderlayPort == 0:
		return fmt.Errorf("%w config: underlay_port is 0", ErrInvalid)
	}
	return c.VNIs.Validate()
}

// Server is a control-plane member, at KeyServer.
type Server struct {
	Needs      int    `json:"needs,omitempty"`
	Datacenter string `json:"datacenter"`
	Address    string `json:"address"` // host:port of its client endpoint
	Voter      bool   `json:"voter"`
	Why        string `json:"why,omitempty"`
	Joined     Time   `json:"joined"`
}

// Validate checks that the server can be reached.
func (s *Server) Validate() error {
	if s.Address == "" {
		return fmt.Errorf("%w server: address is empty", ErrInvalid)
	}
	return nil
}

// Leader is the elected controller, at KeyLeader, on its lease. The key's
// create revision guards every write of that leader.
type Leader struct {
	Needs int    `json:"needs,omitempty"`
	Name  string `json:"name"`
	Since Time   `json:"since"`
}

// Validate checks that the leader has a name.
func (l *Leader) Validate() error {
	if l.Name == "" {
		return fmt.Errorf("%w leader: name is empty", ErrInvalid)
	}
	return nil
}
