package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Mode is what becomes of an endpoint when its node is lost.
type Mode string

// The modes. Stateless: the workload runs at several nodes, attached at each, and one
// of them serves. VIP: nothing is attached, the VPC's namespace on one of the hosts
// answers. In both each client sees one owner; the two sides of a cut may each have one,
// unless Exclusive forbids that. Stateful: it is started at another node only when it
// surely has ended at the one before, and is exclusive strict without a word.
const (
	ModeStateless Mode = "stateless"
	ModeVIP       Mode = "vip"
	ModeStateful  Mode = "stateful"
)

// MaxVIPs is how many endpoints of mode vip a VPC has at most: each is a port on all
// hosts that may serve it.
const MaxVIPs = 64

// Failback is when an endpoint returns to a place that its list prefers.
type Failback string

// The ways of returning. Never, or empty, is by an operator's word alone.
const (
	FailbackNever Failback = "never"
	FailbackAuto  Failback = "auto"
)

// ParseMode reads what an operator asks for. Errors wrap ErrInvalid.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case ModeStateless, ModeVIP, ModeStateful:
		return m, nil
	}
	return "", fmt.Errorf("%w mode %q: want stateless, vip or stateful", ErrInvalid, CleanText(s))
}

// ParseFailback reads what an operator asks for; never is what an endpoint has that
// says nothing. Errors wrap ErrInvalid.
func ParseFailback(s string) (Failback, error) {
	return parseWord("failback", s, FailbackNever, FailbackAuto)
}

// parseWord reads one of two words, of which the first is as good as saying nothing.
func parseWord[T ~string](what, s string, unsaid, said T) (T, error) {
	switch T(s) {
	case unsaid:
		return "", nil
	case said:
		return said, nil
	}
	return "", fmt.Errorf("%w %s %q: want %s or %s", ErrInvalid, what, CleanText(s), unsaid, said)
}

// Exclusive is who makes sure that an endpoint has one owner.
type Exclusive string

// ExclusiveReceivers, or empty: those who take its frames take them from one node. The
// two sides of a cut may each have one, and a client beside an owner that was given
// up is served by it. ExclusiveStrict: the owner's kernel shuts its port, too, unless
// the store lets it go on by a time, and no other node gets it before that: no two
// nodes answer at any moment, as long as their clocks run alike within 1 %.
const (
	ExclusiveReceivers Exclusive = "receivers"
	ExclusiveStrict    Exclusive = "strict"
)

// ParseExclusive reads what an operator asks for; receivers is what an endpoint has
// that says nothing. Errors wrap ErrInvalid.
func ParseExclusive(s string) (Exclusive, error) {
	return parseWord("exclusive", s, ExclusiveReceivers, ExclusiveStrict)
}

// Isolation is what an owner does that cannot reach the store.
type Isolation string

// IsolationKeep, or empty: it serves on, as long as Exclusive lets it: for ever if
// that is receivers, until its grant ends if it is strict. IsolationFence is the word
// that it is not to serve beyond its grant; it takes a strict one.
const (
	IsolationKeep  Isolation = "keep"
	IsolationFence Isolation = "fence"
)

// ParseIsolation reads what an operator asks for; keep is what an endpoint has that
// says nothing. Errors wrap ErrInvalid.
func ParseIsolation(s string) (Isolation, error) {
	return parseWord("on isolation", s, IsolationKeep, IsolationFence)
}

// windowPrefix begins a way of returning that is bound to a time.
const windowPrefix = "window="

// SetFailback takes what an operator asks for: never, auto, or "window=" and a Window in
// which it is as with auto. Errors wrap ErrInvalid.
func (f *Failover) SetFailback(s string) (err error) {
	f.Failback, f.FailbackWindow = "", Window{}
	if text, ok := strings.CutPrefix(s, windowPrefix); ok {
		f.FailbackWindow, err = ParseWindow(text)
		return err
	}
	if f.Failback, err = ParseFailback(s); err != nil {
		err = fmt.Errorf("%w failback %q: want never, auto or window=TIME", ErrInvalid, CleanText(s))
	}
	return err
}

// FailbackText is what SetFailback reads, never for what says nothing.
func (f *Failover) FailbackText() string {
	switch {
	case !f.FailbackWindow.IsZero():
		return windowPrefix + f.FailbackWindow.String()
	case f.Failback == "":
		return string(FailbackNever)
	}
	return string(f.Failback)
}

// Returns reports whether it returns to a place that it prefers without anybody's word,
// if one is well now.
func (f *Failover) Returns(now time.Time) bool {
	return f.Failback == FailbackAuto || f.FailbackWindow.Open(now)
}

// Failover is where an endpoint may run without anybody's word, in EndpointSpec.
type Failover struct {
	Mode Mode `json:"mode"`
	// Place lists where, the most preferred first: each is a node's name, "dc=NAME",
	// "label=KEY=VALUE" or "all".
	Place    Place    `json:"place"`
	Failback Failback `json:"failback,omitempty"`
	// FailbackWindow is when it returns; it is without Failback, so that who does not know
	// of windows has it stay.
	FailbackWindow Window `json:"failback_window,omitzero"`
	// Preferred is the node that an operator moved it to by hand, which is preferred to
	// all that Place says until an operator ends that; "": none.
	Preferred string `json:"preferred,omitempty"`
	// Apart names a group: failover gives no two endpoints of the same VPC and group to
	// one node, and prefers datacenters that none of them is in. "": none.
	Apart string `json:"apart,omitempty"`
	// Exclusive is who makes sure that it has one owner, and OnIsolation what an owner
	// does that cannot reach the store.
	Exclusive   Exclusive `json:"exclusive,omitempty"`
	OnIsolation Isolation `json:"on_isolation,omitempty"`
	// MoveTo is where an operator wants it, said in an epoch: in a later one it has
	// been done, and what happens then is nobody's word.
	MoveTo InEpoch `json:"move_to,omitzero"`

	// Workload names what a host starts when it becomes the owner, and stops when it
	// is one no more: a directory of programs there. "": it runs by itself.
	Workload string `json:"workload,omitempty"`
	// MayRunTwice says that no harm is done if it runs at two nodes for a while.
	MayRunTwice bool `json:"may_run_twice,omitempty"`
	// OpenEarly lets frames pass before it was started.
	OpenEarly bool `json:"open_early,omitempty"`
	// HookTimeout is how long a program of it may take; unset: HookTimeout.
	HookTimeout Period `json:"hook_timeout,omitempty"`
	// Check is done every CheckEvery; after CheckMisses in a row it has failed.
	Check       Check  `json:"check,omitempty"`
	CheckEvery  Period `json:"check_every,omitempty"`
	CheckMisses int    `json:"check_misses,omitempty"`
}

// Place is a list of one-term selectors, joined by commas as JSON and text.
type Place []Selector

// maxPlace bounds a list of places.
const maxPlace = 64

// ParsePlace reads "dc=a,dc=b". Errors wrap ErrInvalid.
func ParsePlace(s string) (Place, error) {
	var p Place
	for term := range strings.SplitSeq(s, ",") {
		p = append(p, Selector(term))
	}
	return p, p.validate()
}

// ParsePlaceTerm reads one place. Errors wrap ErrInvalid.
func ParsePlaceTerm(s string) (Selector, error) {
	p := Place{Selector(s)}
	return p[0], p.validate()
}

func (p Place) String() string {
	terms := make([]string, len(p))
	for i, s := range p {
		terms[i] = string(s)
	}
	return strings.Join(terms, ",")
}

func (p Place) validate() error {
	if len(p) == 0 || len(p) > maxPlace {
		return fmt.Errorf("%w place: %d of them, want 1 to %d, such as dc=NAME", ErrInvalid, len(p), maxPlace)
	}
	for _, s := range p {
		if strings.Contains(string(s), ",") {
			return fmt.Errorf("%w place %q: want one term", ErrInvalid, CleanText(string(s)))
		}
		if err := s.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// Rank is how preferred a node is, from 0, the most; ok is false where the endpoint
// may not run.
func (p Place) Rank(name string, n *Node) (rank int, ok bool) {
	i := slices.IndexFunc(p, func(s Selector) bool { return s.Selects(name, n) })
	return i, i >= 0
}

// Moves reports whether an endpoint may change its node without anybody's word.
func (f *Failover) Moves() bool { return f.Mode != "" }

// Strict reports whether its owner's kernel sees to it that no two nodes serve it: where
// the workload must not run twice, its frames come from one node, too.
func (f *Failover) Strict() bool {
	return f.Moves() && (f.Exclusive == ExclusiveStrict || f.Stateful())
}

// Isolation is what an owner does that cannot reach the store, whatever is said of it: a
// strict one serves no longer than it was granted.
func (f *Failover) Isolation() Isolation {
	if f.Strict() {
		return IsolationFence
	}
	return IsolationKeep
}

// IsZero reports whether nothing is said.
func (f Failover) IsZero() bool {
	return f.Mode == "" && len(f.Place) == 0 && f.Failback == "" && f.FailbackWindow.IsZero() && f.Preferred == "" && f.Apart == "" &&
		f.Exclusive == "" && f.OnIsolation == "" && f.MoveTo == InEpoch{} && f.Workload == "" && !f.MayRunTwice &&
		!f.OpenEarly && f.HookTimeout == 0 && f.Check == "" && f.CheckEvery == 0 && f.CheckMisses == 0
}

// Validate checks mode, places and failback.
func (f *Failover) Validate() error {
	if f.IsZero() {
		return nil
	}
	if _, err := ParseMode(string(f.Mode)); err != nil {
		return err
	}
	if f.Failback != "" {
		if _, err := ParseFailback(string(f.Failback)); err != nil {
			return err
		}
	}
	if err := f.validateExclusive(); err != nil {
		return err
	}
	switch {
	case f.Failback == FailbackAuto && !f.FailbackWindow.IsZero():
		return fmt.Errorf("%w failback: auto, and in a window; want one of both", ErrInvalid)
	case f.Preferred != "" && CheckNodeName(f.Preferred) != nil:
		return CheckNodeName(f.Preferred)
	}
	if f.Apart != "" {
		if err := CheckGroup(f.Apart); err != nil {
			return err
		}
	}
	if err := f.MoveTo.validate("move to"); err != nil {
		return err
	}
	if err := f.validateWorkload(); err != nil {
		return err
	}
	return f.Place.validate()
}

func (f *Failover) validateExclusive() error {
	if f.Exclusive != "" {
		if _, err := ParseExclusive(string(f.Exclusive)); err != nil {
			return err
		}
	}
	if f.OnIsolation != "" {
		if _, err := ParseIsolation(string(f.OnIsolation)); err != nil {
			return err
		}
	}
	if f.Stateful() && f.Exclusive == ExclusiveReceivers {
		return fmt.Errorf("%w exclusive receivers: in mode stateful it is strict", ErrInvalid)
	}
	if f.OnIsolation == IsolationFence && !f.Strict() {
		return fmt.Errorf("%w on isolation fence: nothing shuts the port of an endpoint that is not exclusive strict", ErrInvalid)
	}
	return nil
}

// CheckGroup wraps ErrInvalid unless s can name a group of endpoints that are apart.
func CheckGroup(s string) error {
	if CheckNodeName(s) != nil {
		return fmt.Errorf("%w group %q: want 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", ErrInvalid, CleanText(s))
	}
	return nil
}

// Moved is the last change of an endpoint's owner that nobody asked for, in
// EndpointOwn.
type Moved struct {
	From string `json:"from"`
	Why  string `json:"why"` // the evidence, in words
	At   Time   `json:"at"`
	// Unfenced are members that had not confirmed the fence when the owner changed:
	// they may take frames from both until they read it.
	Unfenced []string `json:"unfenced,omitempty"`
	// Changes is how many of these there were lately, this one included, 0 if an
	// operator asked for it: the next leader goes on counting.
	Changes int `json:"changes,omitempty"`
	// Failed are the nodes where its workload failed, one after the other.
	Failed []string `json:"failed,omitempty"`
}

func (m *Moved) validate() error {
	if m == nil {
		return nil
	}
	if err := CheckNodeName(m.From); err != nil {
		return err
	}
	if err := checkSize("unfenced nodes", len(m.Unfenced)+len(m.Failed), maxPeers); err != nil {
		return err
	}
	for _, n := range slices.Concat(m.Unfenced, m.Failed) {
		if err := CheckNodeName(n); err != nil {
			return err
		}
	}
	if m.Changes < 0 || m.Changes > maxFew {
		return fmt.Errorf("%w moved: %d changes", ErrInvalid, m.Changes)
	}
	return checkText("why", m.Why)
}

// Profile names a set of FailoverTimings, in Config.
type Profile string

// The profiles. Fast is for round trips up to 30 ms.
const (
	ProfileDefault Profile = "" // or "default"
	ProfileFast    Profile = "fast"
)

// FailoverTimings are how long failover waits for what.
type FailoverTimings struct {
	Probe     time.Duration // between two probes of a node
	Misses    int           // unanswered in a row until an observer says so
	Keepalive time.Duration // between two counters of a node that owns what can move
	Grant     time.Duration // after how long without a counter a strict endpoint may be another's; see grant.go
	Confirm   time.Duration // how long the evidence against a node must hold
	Barrier   time.Duration // how long members' word about a fence is awaited
	Hold      time.Duration // how long a whole datacenter must be gone
}

// Timings are those of the profile.
func (p Profile) Timings() FailoverTimings {
	if p == ProfileFast {
		return FailoverTimings{200 * time.Millisecond, 3, time.Second, 3 * time.Second, 0, 300 * time.Millisecond, 2 * time.Second}
	}
	return FailoverTimings{500 * time.Millisecond, 4, 3 * time.Second, 9 * time.Second, time.Second, time.Second, 10 * time.Second}
}

// LeaderLease is how long the leading controller's silence is borne until another is
// elected: nobody decides anything meanwhile.
func (p Profile) LeaderLease() time.Duration {
	if p == ProfileFast {
		return 4 * time.Second
	}
	return 10 * time.Second
}

// MaxRTT is the longest round trip between nodes that the timings are for: the store
// needs two to commit a fence, and members' word one more, within what a fast
// takeover has beside its silence.
func (p Profile) MaxRTT() time.Duration {
	if p == ProfileFast {
		return 30 * time.Millisecond
	}
	return 300 * time.Millisecond
}

// Silence is how long a node is silent until its observers say so.
func (t FailoverTimings) Silence() time.Duration { return time.Duration(t.Misses) * t.Probe }

// Validate checks that there is such a profile.
func (p Profile) Validate() error {
	switch p {
	case ProfileDefault, "default", ProfileFast:
		return p.Timings().Validate()
	}
	return fmt.Errorf("%w failover profile %q: want default or fast", ErrInvalid, CleanText(string(p)))
}
