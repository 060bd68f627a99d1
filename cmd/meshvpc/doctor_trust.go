package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// When certificates are said to end soon. Those that renew themselves do so when
// a third of their time is left: a day later it should have been done. A
// person's certificate has to be asked for; without a CA that is left a year
// nothing can be certified for a year.
const (
	renewSlack   = 24 * time.Hour
	soonOfPerson = 30 * 24 * time.Hour
	soonOfCA     = 365 * 24 * time.Hour
)

// paper is a certificate on this host.
type paper struct {
	name, path string
	period     membership.Period
	renews     bool // by itself, while its process runs
	soon       time.Duration
	mend       string
}

// lookCertificates looks at the dates of all certificates here, and at who may
// read the keys.
func (t *patient) lookCertificates(context.Context) (s seen) {
	papers, keys, errs := t.papers()
	for _, err := range errs {
		if errors.Is(err, fs.ErrPermission) {
			return skip("run doctor as root to have that checked")
		}
		s.add(gradeProblem, "join the host anew, or bring the file back", "%v", err)
	}
	now := t.now()
	for _, p := range papers {
		judgePaper(&s, p, now)
	}
	for _, path := range keys {
		if info, err := os.Stat(path); err == nil {
			judgeMode(&s, path, info.Mode())
		}
	}
	if len(papers) == 0 && len(s.found) == 0 {
		return skip("there are none: the store is spoken to in the clear")
	}
	s.good = fmt.Sprintf("%d certificates, %d files with keys", len(papers), len(keys))
	return s
}

// papers are the certificates on this host, and the files that hold keys.
func (t *patient) papers() (list []paper, keys []string, errs []error) {
	known := map[string]bool{} // each CA once
	take := func(c membership.Credential, p paper) {
		cert, ca, err := c.Periods()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.path, err))
			return
		}
		p.period = cert
		list = append(list, p)
		if !known[string(c.CA)] {
			known[string(c.CA)] = true
			list = append(list, paper{name: "the cluster's CA", path: p.path, period: ca, soon: soonOfCA,
				mend: "replace it while all runs, on a server: meshvpc cluster rotate-ca (every certificate ends with it)"})
		}
	}
	files := func(f *pemFiles, p paper) {
		c, err := f.load()
		if err != nil {
			errs = append(errs, err)
			return
		}
		keys, p.path, p.renews = append(keys, f.Key), f.Cert, true
		take(c, p)
		if f.CAKey != "" {
			keys = append(keys, f.CAKey)
		}
	}
	if t.agent != nil && t.agent.TLS != nil {
		files(t.agent.TLS, paper{name: "the node's certificate", mend: "start \"meshvpc agent\" and see its log: it renews it where a server's join service answers; an ended one needs a new join: meshvpc cluster join"})
	}
	if t.server != nil && t.server.TLS.Cert != "" {
		files(&t.server.TLS, paper{name: "the server's certificate", mend: "start \"meshvpc server\" again: it renews it at its start"})
	}
	if t.client != nil {
		keys = append(keys, t.clientFile)
		if t.client.CA != "" {
			take(t.client.credential(), paper{name: "the client's certificate", path: t.clientFile, soon: soonOfPerson,
				mend: "get another where an admin is: meshvpc cluster credential create NAME --role ROLE"})
		}
	}
	others, _ := filepath.Glob(filepath.Join(filepath.Dir(t.pem(cluster.SubjectUser).Key), "*.key")) // no bad pattern
	for _, path := range others {
		if !slices.Contains(keys, path) {
			keys = append(keys, path)
		}
	}
	return list, keys, errs
}

// judgePaper holds a certificate's dates against now.
func judgePaper(s *seen, p paper, now time.Time) {
	const day = "2006-01-02 15:04 MST"
	soon := p.soon
	if p.renews {
		soon = p.period.Until.Sub(p.period.From)/3 - renewSlack
	}
	left := p.period.Until.Sub(now)
	switch {
	case now.Before(p.period.From):
		s.add(gradeProblem, setClock, "%s (%s) holds from %s, and the clock of this host says %s: the clock is wrong, here or where it was made",
			p.name, p.path, p.period.From.UTC().Format(day), now.UTC().Format(day))
	case left < 0:
		s.add(gradeProblem, p.mend+"; if the clock is wrong: "+setClock, "%s (%s) ended on %s, and the clock of this host says %s",
			p.name, p.path, p.period.Until.UTC().Format(day), now.UTC().Format(day))
	case left < soon && p.renews:
		s.add(gradeSoon, p.mend, "%s (%s) ends on %s, and should have been renewed by now", p.name, p.path, p.period.Until.UTC().Format(day))
	case left < soon:
		s.add(gradeSoon, p.mend, "%s (%s) ends on %s, in %d days", p.name, p.path, p.period.Until.UTC().Format(day), int(left.Hours()/24))
	}
}

// judgeMode wants keys to be their owner's only.
func judgeMode(s *seen, path string, mode fs.FileMode) {
	if wide := mode.Perm() &^ 0o600; wide != 0 {
		s.add(gradeProblem, "chmod 600 "+path, "%s holds a key, and others may use it: its mode is %04o", path, mode.Perm())
	}
}
