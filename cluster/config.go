package cluster

import (
	"fmt"
	"net"
	"strconv"
)

// Config is what holds for the whole cluster, at KeyConfig.
type Config struct {
	Needs   int    `json:"needs,omitempty"`
	Cluster string `json:"cluster"` // name for people
	ID      string `json:"id"`      // random; another id is another cluster
	// Era grows when a store is restored or recovered; a host that has seen a
	// higher one holds what it has. From 1 to 2^53-1.
	Era int64 `json:"era"`
	// ConfirmedEra is the era that an operator has last confirmed, 0 for none.
	ConfirmedEra int64    `json:"confirmed_era,omitempty"`
	UnderlayPort uint16   `json:"underlay_port"` // UDP, of all tunnels
	VNIs         VNIRange `json:"vni_range"`
	Encryption   string   `json:"encryption"` // "none" (or empty) until the underlay can encrypt
	Trust        *Trust   `json:"trust,omitempty"`
	// Timings of the store, with which servers begin anew one after another; nil: those
	// of a LAN. An external etcd's are its own.
	Timings *Timings `json:"timings,omitempty"`
	// Failover is the profile of its timings.
	Failover Profile `json:"failover,omitempty"`
}

// DefaultUnderlayPort is the UDP port of VXLAN (RFC 7348 §8).
const DefaultUnderlayPort = 4789

// Validate checks ids, port and range.
func (c *Config) Validate() error {
	switch {
	case checkID("", c.ID) != nil:
		return checkID("cluster id", c.ID)
	case c.Era < 1 || c.Era > maxCount:
		return fmt.Errorf("%w config: era %d, want 1 or more, below 2^53", ErrInvalid, c.Era)
	case c.ConfirmedEra < 0 || c.ConfirmedEra > c.Era:
		return fmt.Errorf("%w config: confirmed_era %d, want at most the era, %d", ErrInvalid, c.ConfirmedEra, c.Era)
	case c.Encryption != "" && c.Encryption != "none":
		return fmt.Errorf("%w encryption %q: this version has none", ErrInvalid, CleanText(c.Encryption))
	case c.UnderlayPort == 0:
		return fmt.Errorf("%w config: underlay_port is 0", ErrInvalid)
	}
	if err := checkText("cluster name", c.Cluster); err != nil {
		return err
	}
	if c.Trust != nil {
		if err := c.Trust.validate(); err != nil {
			return err
		}
	}
	if _, _, err := c.Timings.Durations(); err != nil {
		return err
	}
	if err := c.Failover.Validate(); err != nil {
		return err
	}
	return c.VNIs.Validate()
}

// Unconfirmed reports whether the store was restored or recovered and nobody has
// said yet that hosts are to follow it. The first era needs no word.
func (c *Config) Unconfirmed() bool { return c.Era > 1 && c.ConfirmedEra < c.Era }

// Server is a control-plane member, at KeyServer.
type Server struct {
	Needs      int    `json:"needs,omitempty"`
	Datacenter string `json:"datacenter"`
	// Address is the host:port of its client endpoint; with an external store, of
	// its join service.
	Address string `json:"address"`
	Peer    string `json:"peer,omitempty"` // host:port that other servers dial
	// Key is the SHA-256 of the public key (SubjectPublicKeyInfo) that the server's
	// certificate is of, 64 hexadecimal digits.
	Key     string `json:"key,omitempty"`
	Witness bool   `json:"witness,omitempty"` // it votes, and has neither agent nor CA key
	Voter   bool   `json:"voter"`
	Why     string `json:"why,omitempty"` // why it votes, or does not
	Joined  Time   `json:"joined"`
	// Timings are with which its store runs; nil: it has not said so.
	Timings *Timings `json:"timings,omitempty"`
	// Restarting is said by a server whose store begins anew, until it is back and its
	// clients may be: no other does meanwhile.
	Restarting bool `json:"restarting,omitempty"`
}

// Validate checks that the server can be reached.
func (s *Server) Validate() error {
	if err := checkHostPort("server address", s.Address); err != nil {
		return err
	}
	if s.Peer != "" {
		if err := checkHostPort("server peer address", s.Peer); err != nil {
			return err
		}
	}
	if s.Key != "" {
		if err := checkHash("key", s.Key); err != nil {
			return err
		}
	}
	if s.Datacenter != "" {
		if err := checkDatacenter(s.Datacenter); err != nil {
			return err
		}
	}
	if _, _, err := s.Timings.Durations(); err != nil {
		return err
	}
	return checkText("server", s.Address, s.Peer, s.Why)
}

func checkHostPort(what, s string) error {
	host, port, err := net.SplitHostPort(s)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || host == "" || n == 0 {
		return fmt.Errorf("%w %s %q: want host:port", ErrInvalid, what, CleanText(s))
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
	return checkText("leader", l.Name)
}
