package cluster

import (
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of records, so that no writer can burden every reader.
const (
	maxText   = 400   // bytes of text that came from another machine
	maxPeers  = 10000 // entries of a list or map with one for each node
	maxFew    = 64    // entries of any other list or map
	maxCount  = 1<<53 - 1
	maxDevice = 15  // bytes, IFNAMSIZ-1
	maxRTT    = 1e7 // milliseconds
)

// checkID wraps ErrInvalid unless s is 1 to 64 of letters, digits, . _ : -.
func checkID(what, s string) error {
	if !isWord(s, 64, "._:-") {
		return fmt.Errorf("%w %s %q: want 1 to 64 of letters, digits, . _ : -", ErrInvalid, what, s)
	}
	return nil
}

// checkText wraps ErrInvalid when CleanText would change one of texts.
func checkText(what string, texts ...string) error {
	for _, s := range texts {
		if CleanText(s) != s {
			return fmt.Errorf("%w %s %q: want at most %d bytes without control characters", ErrInvalid, what, CleanText(s), maxText)
		}
	}
	return nil
}

func checkRTT(ms float64) error {
	if math.IsNaN(ms) || ms < 0 || ms > maxRTT {
		return fmt.Errorf("%w round trip time %v ms: want 0 to %v", ErrInvalid, ms, float64(maxRTT))
	}
	return nil
}

func checkSize(what string, n, limit int) error {
	if n > limit {
		return fmt.Errorf("%w %s: %d entries, at most %d", ErrInvalid, what, n, limit)
	}
	return nil
}

// CleanText makes text from another machine safe to print on a terminal and
// to put into a device's alias: line ends and tabs become spaces, other control
// and formatting characters and invalid UTF-8 become "?", and it is cut at 400
// bytes. Encode cleans the free text of records, Validate refuses what is not
// clean.
func CleanText(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\r', r == '\t':
			return ' '
		case unicode.IsControl(r), r == utf8.RuneError, unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp):
			return '?'
		}
		return r
	}, s)
	if len(s) <= maxText {
		return s
	}
	const end = "…"
	cut := maxText - len(end)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + end
}

// cleaner is a record with free text, such as the words of a kernel.
type cleaner interface {
	// clean applies CleanText to the free text, and writes nothing that is
	// clean already: others may be reading.
	clean()
}

func cleanText(texts ...*string) {
	for _, s := range texts {
		if c := CleanText(*s); c != *s {
			*s = c
		}
	}
}

// cleanList returns list with clean texts, at most maxFew of them.
func cleanList(list []string) []string {
	list = list[:min(len(list), maxFew)]
	if checkText("", list...) == nil {
		return list
	}
	clean := make([]string, len(list))
	for i, s := range list {
		clean[i] = CleanText(s)
	}
	return clean
}
