package membership

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// goodRequest is a join request that check takes.
func goodRequest(f *testing.F) JoinRequest {
	f.Helper()
	r := JoinRequest{TokenID: "0123456789", Secret: "00ff", Name: "n1", ID: "id-1", Datacenter: "dc1", Version: "0.1.0"}
	for _, text := range []*string{&r.Request, &r.Viewer} {
		key, err := NewKey()
		if err != nil {
			f.Fatal(err)
		}
		b, err := key.Request()
		if err != nil {
			f.Fatal(err)
		}
		*text = string(b)
	}
	return r
}

// FuzzJoinRequest: whatever is posted to the join service is refused as invalid,
// or is what the rest of a join relies on.
func FuzzJoinRequest(f *testing.F) {
	good := goodRequest(f)
	b, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(bytes.Replace(b, []byte(`"version"`), []byte(`"underlay":["192.0.2.1","2001:db8::1"],"version"`), 1))
	f.Add([]byte(`{"underlay":["fe80::1%eth0","::ffff:192.0.2.1",""]}`))
	f.Add([]byte(`{"name":"n1","secret":"zz"}`))
	f.Add([]byte(`[]`))
	a := &admitter{now: time.Now}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r JoinRequest
		if len(b) > maxRequest || json.NewDecoder(bytes.NewReader(b)).Decode(&r) != nil {
			return
		}
		c, err := a.check(r)
		if err != nil {
			if refusal, ok := errors.AsType[*Refusal](err); !ok || refusal.Code != CodeInvalid || cluster.CleanText(refusal.Reason) == "" {
				t.Errorf("%v is no refusal", err)
			}
			return
		}
		if cluster.CheckNodeName(c.Name) != nil || len(c.hash) != 64 || len(c.node.hash) != 64 || len(c.viewer.hash) != 64 || len(c.Underlay) > mostUnderlays {
			t.Errorf("%q was taken", b)
		}
		if n := (&cluster.Node{ID: c.ID, Datacenter: c.Datacenter, State: cluster.NodeActive, Key: c.node.hash}); n.Validate() != nil {
			t.Errorf("%q would make an invalid record: %v", b, n.Validate())
		}
		Compatible(c.Version, "0.1.0")
	})
}

// FuzzRequestDER is FuzzRequested below the text, which a fuzzer does
// not get through by itself.
func FuzzRequestDER(f *testing.F) {
	block, _ := pem.Decode([]byte(goodRequest(f).Request))
	f.Add(block.Bytes)
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := requested(pem.EncodeToMemory(&pem.Block{Type: typeRequest, Bytes: b}))
		if err == nil && (w.key == nil || len(w.hash) != 64) {
			t.Errorf("%x was read as %+v", b, w)
		}
	})
}
