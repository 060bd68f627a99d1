package failover

import (
	"maps"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// beat is a counter of another machine, as this leader saw it. Whose it is, and which
// process of it counts, is in by: a new one has moved, too.
type beat struct {
	by      string
	counter int64
	boot    string
	grant   time.Duration // that it last said it had; 0: it never did
	// moved is when it was seen to change; zero: it stands since evidence is collected.
	moved time.Time
}

// hear takes a counter as it is in the store now. A change moves it, if changes count.
func hear(beats map[string]*beat, name, by string, counter int64, counts bool, now time.Time) *beat {
	b := beats[name]
	if b == nil {
		b = &beat{}
		beats[name] = b
	}
	if counts && (b.by != by || b.counter != counter) {
		b.moved = now
	}
	b.by, b.counter = by, counter
	return b
}

// listen takes the counters of keepalives and verdicts. All that was there when the
// leader began, or went on after an interruption, may be old, and is no sign of life.
// Of a view that was behind, verdicts that moved are not fresh by that; that keepalives
// did makes them less late than they are, and nobody lost too early.
func (j *Judge) listen(p *pass) {
	first := j.began.Equal(p.Now)
	old := first && p.holds(ruleGrace) || p.Behind && p.holds(ruleBehind)
	for name, l := range p.Live {
		if n := p.Nodes[name]; n == nil || l == nil || n.ID != l.NodeID {
			continue
		}
		b := hear(j.lives, name, l.NodeID+" "+l.BootID+" "+l.Incarnation, l.Counter, !first, p.Now)
		if b.boot != "" && b.boot != l.BootID {
			j.node(name).rebooted = p.Now
		}
		b.boot = l.BootID
		if l.Grant > 0 {
			b.grant = time.Duration(l.Grant) * time.Millisecond
		}
	}
	for name, v := range p.Verdicts {
		if n := p.Nodes[name]; n != nil && v != nil && n.ID == v.NodeID {
			hear(j.verdicts, name, v.NodeID, v.Counter, !old, p.Now)
		}
	}
	maps.DeleteFunc(j.lives, func(name string, _ *beat) bool { return p.Nodes[name] == nil })
	maps.DeleteFunc(j.verdicts, func(name string, _ *beat) bool { return p.Nodes[name] == nil })
}

// alive reports whether there is a live record of this very node.
func (p *pass) alive(name string) bool {
	n, l := p.Nodes[name], p.Live[name]
	return n != nil && l != nil && n.ID == l.NodeID
}

// silence is how long this leader has not seen a node's keepalive move.
func (p *pass) silence(name string) time.Duration {
	from := p.judge.began
	if !p.holds(ruleGrace) {
		from = time.Time{}
	}
	if b := p.judge.lives[name]; b != nil && b.moved.After(from) {
		from = b.moved
	}
	return p.Now.Sub(from)
}

// late reports whether a node's keepalive is. One that owns nothing counts nothing,
// so it is always late, and its observers alone decide. Whether there is a live record
// does not matter: the store may have ended its lease by mistake.
func (p *pass) late(name string) bool {
	from := p.Now.Add(-p.silence(name))
	return p.due(from.Add(p.Timings.Keepalive + p.Timings.Keepalive/slackShare + 1))
}

// verdict is what an observer says now: nil if that does not count. It speaks if it
// counts; one that has said that it suspects nobody may stand still.
func (p *pass) verdict(observer string) (v *cluster.Verdicts, speaks bool) {
	v = p.Verdicts[observer]
	n := p.Nodes[observer]
	if v == nil || n == nil || v.NodeID != n.ID || n.State == cluster.NodeLeft || p.fenced(observer) {
		return nil, false
	}
	if v.Unsure && p.holds(ruleUnsure) {
		return nil, false
	}
	moved := p.judge.verdicts[observer].moved
	if len(v.Suspects) > 0 && !p.holds(ruleFresh) {
		return v, true
	}
	if end := moved.Add(freshPeriods * p.Timings.Probe); !moved.IsZero() && !p.due(end) {
		return v, true
	}
	if len(v.Suspects) > 0 {
		return nil, false
	}
	return v, false
}
