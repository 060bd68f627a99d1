package cluster

import (
	"errors"
	"testing"
)

func TestParseFloodLimit(t *testing.T) {
	for text, tt := range map[string]struct {
		want FloodLimit
		rate int
		err  error
	}{
		"1": {1, 1, nil}, "1000000": {MaxFloodLimit, 1_000_000, nil}, "none": {NoFloodLimit, 0, nil},
		"0": {err: ErrInvalid}, "-1": {err: ErrInvalid}, "1000001": {err: ErrInvalid}, "": {err: ErrInvalid}, "many": {err: ErrInvalid},
	} {
		got, err := ParseFloodLimit(text)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("ParseFloodLimit(%q) = %d, %v; want %d, %v", text, int(got), err, int(tt.want), tt.err)
		}
		if err == nil && (got.Rate() != tt.rate || got.String() != text) {
			t.Errorf("%q: rate %d, %q; want %d", text, got.Rate(), got, tt.rate)
		}
	}
	if zero := FloodLimit(0); zero.Rate() != 1000 || zero.String() != "1000" {
		t.Errorf("by default: %d, %q", zero.Rate(), zero)
	}
}
