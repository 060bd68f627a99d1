package cluster

import (
	"fmt"
	"time"
)

// Hooks are how long a workload's programs on a host may take, and how often it is
// asked whether it is well, unless its endpoint says otherwise.
const (
	HookTimeout = 30 * time.Second
	CheckEvery  = 5 * time.Second
	CheckMisses = 3
)

// MaxMisses bounds how many checks may fail in a row.
const MaxMisses = 100

// Period is a length of time, as text in records: "1.5s". Zero is unset.
type Period time.Duration

// ParsePeriod reads "1.5s", from 1 s to 10 min. Errors wrap ErrInvalid.
func ParsePeriod(s string) (Period, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%w time %q: want one like 30s", ErrInvalid, CleanText(s))
	}
	return Period(d), Period(d).validate()
}

func (p Period) validate() error {
	if d := time.Duration(p); p != 0 && (d < time.Second || d > 10*time.Minute) {
		return fmt.Errorf("%w time %s: want 1s to 10m", ErrInvalid, d)
	}
	return nil
}

func (p Period) String() string { return time.Duration(p).String() }

// Or is the period, or d if it is unset.
func (p Period) Or(d time.Duration) time.Duration {
	if p == 0 {
		return d
	}
	return time.Duration(p)
}

// MarshalText writes the form that ParsePeriod reads.
func (p Period) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads it.
func (p *Period) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePeriod(string(b))
	return err
}

// Check is how a workload is asked whether it is well: "exec" is by its
// hook "check", "" not at all.
type Check string

// CheckExec is by a program of the host.
const CheckExec Check = "exec"

// ParseCheck reads a check. Errors wrap ErrInvalid.
func ParseCheck(s string) (Check, error) {
	c := Check(s)
	if c == CheckExec {
		return c, nil
	}
	return "", fmt.Errorf("%w check %q: want exec", ErrInvalid, CleanText(s))
}

// CheckWorkloadName wants what can be the name of a directory of hooks.
func CheckWorkloadName(s string) error {
	if CheckNodeName(s) != nil {
		return fmt.Errorf("%w workload %q: want 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", ErrInvalid, CleanText(s))
	}
	return nil
}

// validateWorkload checks what is said of a workload beside the mode.
func (f *Failover) validateWorkload() error {
	switch {
	case f.Workload == "" && f.Mode == ModeStateful:
		return fmt.Errorf("%w mode stateful: it has a workload, whose end its host can confirm", ErrInvalid)
	case f.Workload == "" && (f.MayRunTwice || f.OpenEarly || f.Check != "" || f.HookTimeout != 0):
		return fmt.Errorf("%w failover: what is said of its workload is of none", ErrInvalid)
	case f.Workload == "":
		return nil
	case f.Mode == ModeVIP:
		return fmt.Errorf("%w failover: in mode vip there is no workload, the hosts answer themselves", ErrInvalid)
	case f.Mode == ModeStateful && f.MayRunTwice:
		return fmt.Errorf("%w failover: a stateful workload may not run twice", ErrInvalid)
	case f.Mode != ModeStateful && !f.MayRunTwice:
		return fmt.Errorf("%w failover: in mode %s its workload may run twice, and nothing says that it may", ErrInvalid, f.Mode)
	case f.Check == "" && (f.CheckEvery != 0 || f.CheckMisses != 0):
		return fmt.Errorf("%w failover: no check, which is done every so often", ErrInvalid)
	case f.CheckMisses < 0 || f.CheckMisses > MaxMisses:
		return fmt.Errorf("%w failover: %d misses: want 1 to %d", ErrInvalid, f.CheckMisses, MaxMisses)
	}
	if f.Check != "" {
		if _, err := ParseCheck(string(f.Check)); err != nil {
			return err
		}
	}
	for _, p := range []Period{f.HookTimeout, f.CheckEvery} {
		if err := p.validate(); err != nil {
			return err
		}
	}
	return CheckWorkloadName(f.Workload)
}

// SetNeeds has those keep off the spec, and what follows from it, that would take the
// endpoint for one without a workload.
func (s *EndpointSpec) SetNeeds() {
	if s.Failover.Workload != "" {
		s.Needs = max(s.Needs, versionWorkload)
	}
}

// SetNeeds is as that of the spec.
func (o *EndpointOwn) SetNeeds(f *Failover) {
	if f.Workload != "" {
		o.Needs = max(o.Needs, versionWorkload)
	}
}

// Stateful reports whether its workload must not run at two nodes at any moment.
func (f *Failover) Stateful() bool { return f.Mode == ModeStateful }

// WorkloadState is how far a workload is on a host.
type WorkloadState string

// The states of a workload. Unknown: nobody knows whether it runs, as after a boot.
// Failed, in the epoch that is reported, it runs no more either.
const (
	WorkloadUnknown  WorkloadState = "unknown"
	WorkloadStarting WorkloadState = "starting"
	WorkloadRunning  WorkloadState = "running"
	WorkloadStopping WorkloadState = "stopping"
	WorkloadStopped  WorkloadState = "stopped"
	WorkloadFailed   WorkloadState = "failed"
)

// MayRun reports whether it has not been confirmed that it does not.
func (s WorkloadState) MayRun() bool { return s != WorkloadStopped && s != WorkloadFailed }

// WorkloadStatus is what a node reports of an endpoint's workload, in EndpointStatus.
type WorkloadStatus struct {
	State  WorkloadState `json:"state"`
	Reason string        `json:"reason,omitempty"`
	// Era and Epoch are those in which it was started here last.
	Era   int64 `json:"era"`
	Epoch int64 `json:"epoch"`
}

// MayRun reports whether a node does not say that the workload does not run there: of
// an endpoint without one it says nothing.
func (s *WorkloadStatus) MayRun() bool { return s != nil && s.State.MayRun() }

// In is the state of a workload that was started in a term of its owner, "" if the node
// does not say that it was.
func (s *WorkloadStatus) In(own *EndpointOwn) WorkloadState {
	if s == nil || s.Era != own.Era || s.Epoch != own.Epoch {
		return ""
	}
	return s.State
}

func (s *WorkloadStatus) validate() error {
	switch {
	case s == nil:
		return nil
	case s.Era < 0 || s.Era > maxEpoch || s.Epoch < 0 || s.Epoch > maxEpoch:
		return fmt.Errorf("%w workload status: era %d, epoch %d", ErrInvalid, s.Era, s.Epoch)
	}
	switch s.State {
	case WorkloadUnknown, WorkloadStarting, WorkloadRunning, WorkloadStopping, WorkloadStopped, WorkloadFailed:
		return checkText("reason", s.Reason)
	}
	return fmt.Errorf("%w workload state %q", ErrInvalid, CleanText(string(s.State)))
}
