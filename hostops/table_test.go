package hostops

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// TestTable: a table is a map, with what is usual among several and without.
func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var usual *Usual[int, string]
		if rapid.Bool().Draw(t, "usual") {
			usual = &Usual[int, string]{}
		}
		tables := []*Table[int, string]{usual.NewTable(), usual.NewTable(), NewTable[int, string]()}
		models := []map[int]string{{}, {}, {}}
		for range rapid.IntRange(0, 100).Draw(t, "steps") {
			i := rapid.IntRange(0, 2).Draw(t, "table")
			k := rapid.IntRange(0, 150).Draw(t, "key")
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				tables[i].Delete(k)
				delete(models[i], k)
			case 1:
				tables[i], models[i] = tables[i].Clone(), maps.Clone(models[i])
			default:
				v := rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "value")
				tables[i].Set(k, v)
				models[i][k] = v
			}
			v, ok := tables[i].Get(k)
			want, wantOK := models[i][k]
			if v != want || ok != wantOK || tables[i].Len() != len(models[i]) {
				t.Fatalf("entry %d = %q, %v of %d; want %q, %v of %d", k, v, ok, tables[i].Len(), want, wantOK, len(models[i]))
			}
		}
		for i, table := range tables {
			if got := maps.Collect(table.All()); !maps.Equal(got, models[i]) {
				t.Errorf("table %d = %v; want %v", i, got, models[i])
			}
			for j, other := range tables {
				if got, want := table.Equal(other), maps.Equal(models[i], models[j]); got != want {
					t.Errorf("%v equals %v: %v; want %v", models[i], models[j], got, want)
				}
			}
		}
	})
}
