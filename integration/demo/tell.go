package demo

import (
	"fmt"
	"text/tabwriter"
)

// say writes a line of narration. A narration that nobody can read is no
// reason to stop: the result stands for itself.
func (p *play) say(format string, args ...any) {
	fmt.Fprintf(p.cfg.Out, format+"\n", args...)
}

// tell closes an act.
func (p *play) tell(s Step) {
	if s.OK {
		p.say("ok    %s: %s (%.0f ms)", s.Name, s.Proved, s.MS)
	} else {
		p.say("FAIL  %s: %s", s.Name, s.Error)
	}
}

// table sums up what was proved.
func (p *play) table() {
	p.say("")
	t := tabwriter.NewWriter(p.cfg.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "STEP\tHELD\tPROVED")
	for _, s := range p.result.Steps {
		held, proved := "yes", s.Proved
		if !s.OK {
			held, proved = "NO", s.Error
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", s.Name, held, proved)
	}
	t.Flush() // to the same place as the narration
	if f := p.result.Failover; f != nil {
		p.say("\nthe service moved from %s to %s by itself: %.0f ms without an answer", f.From, f.To, f.GapMS)
	}
	p.say("\n%d pings sent, %d lost; mesh of 3 up in %.0f ms; fourth host from join to all pairs pinged in %.0f ms",
		p.result.Sent, p.result.Lost, p.result.ConvergeMS, p.result.JoinMS)
}
