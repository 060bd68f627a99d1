package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

func TestColumns(t *testing.T) {
	var b bytes.Buffer
	columns(&b, []string{"node", "why"}, [][]string{{"a", ""}, {"gold-hoster-01", "übel"}})
	if want := "NODE            WHY\na               -\ngold-hoster-01  übel\n"; b.String() != want {
		t.Errorf("got:\n%swant:\n%s", b.String(), want)
	}
}

// Nothing but a terminal gets colours or progress.
func TestPlainOutput(t *testing.T) {
	var out, errs bytes.Buffer
	p := newProgram(strings.NewReader(""), &out, &errs)
	bar := p.progress()
	bar.show("working")
	bar.done()
	if got := p.paint(red, "x"); got != "x" || errs.Len() != 0 {
		t.Errorf("paint = %q, progress = %q", got, errs.String())
	}
	p.outTerm, p.errTerm = true, true
	t.Setenv("TERM", "xterm")
	if got := p.paint(red, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("on a terminal: paint = %q", got)
	}
	bar = p.progress()
	bar.show("working")
	bar.done()
	if got := errs.String(); got != "\r\x1b[Kworking\r\x1b[K" {
		t.Errorf("on a terminal: progress = %q", got)
	}
	t.Setenv("NO_COLOR", "1")
	if got := p.paint(red, "x"); got != "x" {
		t.Errorf("with NO_COLOR: paint = %q", got)
	}
}

// A record prints as JSON of the same meaning without a character that a
// terminal would act on, whatever was in the store.
func TestRawOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		value := []byte(text)
		isJSON := rapid.Bool().Draw(t, "json")
		if isJSON {
			value, _ = json.Marshal(map[string]string{"a": text})
		}
		r := rawOf(mvcc.KeyValue{Key: "k", Value: value})
		if !json.Valid(r.Value) {
			t.Fatalf("%q became no JSON: %s", value, r.Value)
		}
		for _, c := range string(r.Value) {
			if unicode.IsControl(c) || unicode.Is(unicode.Cf, c) {
				t.Fatalf("%q kept %q: %s", value, c, r.Value)
			}
		}
		var got map[string]string
		if isJSON && !strings.ContainsFunc(text, func(c rune) bool { return c > 0xffff || c == unicode.ReplacementChar }) {
			if err := json.Unmarshal(r.Value, &got); err != nil || got["a"] != text {
				t.Fatalf("%q became %q, %v", text, got["a"], err)
			}
		}
	})
}

func TestMeanTexts(t *testing.T) {
	for in, want := range map[string]string{"a\x1b[2Jb\nc": "a?[2Jb; c", "  x\n": "x"} {
		if got := oneLine(in); got != want {
			t.Errorf("oneLine(%q) = %q, want %q", in, got, want)
		}
	}
	if got := few(strings.Fields("a b c d e f g h i j k")); got != "a, b, c, d, e, f, g, h and 3 more" {
		t.Errorf("few = %q", got)
	}
}

// The completion script of each shell hands its words to __complete.
func TestCompletionScripts(t *testing.T) {
	for shell, script := range completionScripts {
		if !strings.Contains(script, "meshvpc __complete -- ") {
			t.Errorf("%s does not call __complete", shell)
		}
	}
	p := newProgram(strings.NewReader(""), io.Discard, io.Discard)
	if got := p.complete(t.Context(), []string{"vpc", "create", "x", "--pro"}); strings.Join(got, " ") != "--protect" {
		t.Errorf("complete --pro = %q", got)
	}
}
