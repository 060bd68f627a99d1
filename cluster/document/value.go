package document

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/meshvpc/meshvpc/cluster"
)

// kind is how values of a type stand in a document.
type kind[T any] struct {
	schema map[string]any // JSON schema
	read   func(n *yaml.Node) (T, error)
	// write gives the value as a string, int, bool or []string; nil if it is
	// unset.
	write func(T) any
}

// want is the error of a value that is something else.
func want(what string, n *yaml.Node) error {
	return fmt.Errorf("want %s, got %s", what, describe(n))
}

func describe(n *yaml.Node) string {
	n = resolve(n)
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.ShortTag() == "!!null":
		return "nothing"
	case n.ShortTag() == "!!str":
		return fmt.Sprintf("%q", cluster.CleanText(n.Value))
	}
	return cluster.CleanText(n.Value)
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// textOf reads a scalar that is text, and not a number or the like.
func textOf(n *yaml.Node) (string, bool) {
	n = resolve(n)
	return n.Value, n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str"
}

// number is a decimal whole number.
func number[T ~int | ~uint32](least, most T) kind[T] {
	return kind[T]{
		schema: map[string]any{"type": "integer", "minimum": least, "maximum": most},
		read: func(n *yaml.Node) (T, error) {
			scalar := resolve(n)
			v, err := strconv.ParseInt(scalar.Value, 10, 64)
			if scalar.Kind != yaml.ScalarNode || scalar.ShortTag() != "!!int" || err != nil || strconv.FormatInt(v, 10) != scalar.Value || v < int64(least) || v > int64(most) {
				return 0, want(fmt.Sprintf("a whole number from %d to %d", least, most), n)
			}
			return T(v), nil
		},
		write: func(v T) any {
			if v == 0 {
				return nil
			}
			return int(v)
		},
	}
}

// boolean is true or false, and always set.
func boolean() kind[bool] {
	return kind[bool]{
		schema: map[string]any{"type": "boolean"},
		read: func(n *yaml.Node) (bool, error) {
			scalar := resolve(n)
			v := scalar.Value == "true"
			if scalar.Kind != yaml.ScalarNode || scalar.ShortTag() != "!!bool" || !v && scalar.Value != "false" {
				return false, want("true or false", n)
			}
			return v, nil
		},
		write: func(v bool) any { return v },
	}
}

// switched is boolean, but unset if it is false.
func switched() kind[bool] {
	k := boolean()
	k.write = func(v bool) any {
		if !v {
			return nil
		}
		return true
	}
	return k
}

// parsed is text that parse reads and fmt.Sprint writes; the zero T is unset.
// what says what parse wants.
func parsed[T comparable](what string, parse func(string) (T, error)) kind[T] {
	return kind[T]{
		schema: map[string]any{"type": "string"},
		read: func(n *yaml.Node) (T, error) {
			var none T
			text, ok := textOf(n)
			if !ok {
				return none, want(what, n)
			}
			v, err := parse(text)
			if err != nil {
				return none, want(what, n)
			}
			return v, nil
		},
		write: func(v T) any {
			if none := *new(T); v == none {
				return nil
			}
			return fmt.Sprint(v)
		},
	}
}

// list is any number of values that are text; none is unset.
func list[T comparable](k kind[T]) kind[[]T] {
	return kind[[]T]{
		schema: map[string]any{"type": "array", "items": k.schema},
		read: func(n *yaml.Node) ([]T, error) {
			seq := resolve(n)
			if seq.Kind != yaml.SequenceNode {
				return nil, want("a list", n)
			}
			var values []T
			var errs []error
			for _, item := range seq.Content {
				v, err := k.read(item)
				values = append(values, v)
				errs = append(errs, at(item, err))
			}
			return values, errors.Join(errs...)
		},
		write: func(values []T) any {
			if len(values) == 0 {
				return nil
			}
			words := make([]string, len(values))
			for i, v := range values {
				words[i] = fmt.Sprint(v)
			}
			return words
		},
	}
}

// terms is text joined by commas, or a list of its terms.
func terms[T ~string]() kind[T] {
	text := parsed("text", func(s string) (string, error) { return s, nil })
	many := list(text)
	return kind[T]{
		schema: map[string]any{"type": []string{"string", "array"}, "items": text.schema},
		read: func(n *yaml.Node) (T, error) {
			if resolve(n).Kind == yaml.SequenceNode {
				values, err := many.read(n)
				return T(strings.Join(values, ",")), err
			}
			s, ok := textOf(n)
			if !ok {
				return "", want("text or a list", n)
			}
			return T(s), nil
		},
		write: func(v T) any {
			if words := strings.Split(string(v), ","); len(words) > 1 {
				return words
			}
			return text.write(string(v))
		},
	}
}

// placed is an error that has a place of its own within a value.
type placed struct {
	node *yaml.Node
	err  error
}

func (p placed) Error() string { return p.err.Error() }

func at(n *yaml.Node, err error) error {
	if err == nil {
		return nil
	}
	return placed{n, err}
}
