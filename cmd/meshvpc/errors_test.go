package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
)

// Every kind of error that a library returns has an exit code and, where there
// is something to do, says what; what is printed is one line each.
func TestExplain(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ctx  context.Context
		err  error
		code int
		do   string
	}{
		"refusal":     {t.Context(), notSo("wait", "VPC %q: not yet", "v"), exitNotSo, "wait"},
		"wrapped":     {t.Context(), fmt.Errorf("a: %w", usage("read", "b")), exitUsage, "read"},
		"unavailable": {t.Context(), fmt.Errorf("a: %w", mvcc.ErrUnavailable), exitFailed, "meshvpc server"},
		"conflict":    {t.Context(), store.ErrConflict, exitFailed, "run it again"},
		"newer":       {t.Context(), cluster.ErrNewer, exitFailed, "update meshvpc"},
		"busy":        {t.Context(), hostops.ErrBusy, exitFailed, "stop the other one"},
		"foreign":     {t.Context(), hostops.ErrForeign, exitFailed, "never takes over"},
		"permission":  {t.Context(), syscall.EPERM, exitFailed, "as root"},
		"full disk":   {t.Context(), syscall.ENOSPC, exitFailed, "free some space"},
		"invalid":     {t.Context(), fmt.Errorf("%w name", cluster.ErrInvalid), exitUsage, ""},
		"interrupted": {ended, fmt.Errorf("%w: %w", mvcc.ErrUnavailable, context.Canceled), exitFailed, "interrupted"},
		"other":       {t.Context(), fmt.Errorf("a\nb\x1b[2J"), exitFailed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var errs bytes.Buffer
			code := newProgram(strings.NewReader(""), &errs, &errs).explain(tt.ctx, tt.err)
			lines := strings.Split(strings.TrimSuffix(errs.String(), "\n"), "\n")
			if code != tt.code || !strings.HasPrefix(lines[0], "meshvpc: ") || strings.Contains(errs.String(), "\x1b") {
				t.Errorf("exit %d, %q", code, errs.String())
			}
			if tt.do == "" != (len(lines) == 1) || len(lines) > 2 || tt.do != "" && !strings.Contains(lines[1], tt.do) {
				t.Errorf("got %q, want a hint with %q", errs.String(), tt.do)
			}
		})
	}
}
