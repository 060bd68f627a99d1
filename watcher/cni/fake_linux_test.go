package cni

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// fake is an agent of one VPC, red, on a host without a mesh: it answers on a
// socket, and makes ports that are pairs of devices. Each endpoint has an address of
// each family, and the gateways are the first ones.
type fake struct {
	socket string

	mu        sync.Mutex
	endpoints map[string]*local.Attached // by name; State "": not attached
	made      int
	refuse    map[string]*local.Refusal // by endpoint: what detach says
	unheard   int                       // so many attachments are done, and not answered
	standing  standing
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{socket: filepath.Join(t.TempDir(), "agent.sock"), endpoints: map[string]*local.Attached{}, refuse: map[string]*local.Refusal{},
		standing: standing{VPCs: map[string]cluster.VPCStatus{"red": {Ready: true}}}}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+local.PathAttach, answer(f.attach))
	mux.HandleFunc("POST "+local.PathDetach, answer(f.detach))
	mux.HandleFunc("GET "+local.PathPorts, answer(func(struct{}) (any, *local.Refusal) { return local.Ports{Ports: f.ports()}, nil }))
	mux.HandleFunc("GET "+pathState, answer(func(struct{}) (any, *local.Refusal) { return f.standing, nil }))
	srv := &http.Server{Handler: mux}
	ended := make(chan error)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close() // it removes the socket
		<-ended
		for _, p := range f.ports() {
			f.remove(p.Endpoint)
		}
	})
	return f
}

// answer reads a question and writes what do says to it; do may panic to leave it
// unanswered.
func answer[Q any](do func(Q) (any, *local.Refusal)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		var q Q
		if req.Method == http.MethodPost {
			if err := json.NewDecoder(req.Body).Decode(&q); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		a, refusal := do(q)
		if refusal != nil {
			w.WriteHeader(http.StatusConflict)
			a = refusal
		}
		_ = json.NewEncoder(w).Encode(a) // who asked may have gone
	}
}

func (f *fake) attach(q local.AttachRequest) (any, *local.Refusal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.endpoints[q.Endpoint]
	switch {
	case q.VPC != "red":
		return nil, &local.Refusal{Code: local.CodeNotFound, Text: "there is no VPC " + q.VPC, Hint: "make it"}
	case e == nil && !q.Create:
		return nil, &local.Refusal{Code: local.CodeNotFound, Text: "there is no endpoint " + q.Endpoint, Hint: "make it"}
	case e == nil:
		e = f.make(q.Endpoint)
		e.Created = true
	case e.State != "" && e.For != q.For:
		return nil, &local.Refusal{Code: local.CodeTaken, Text: "it is attached to " + e.For, Hint: "detach it there"}
	}
	if e.State == "" {
		if err := f.place(e, q); err != nil {
			return nil, &local.Refusal{Code: local.CodeTarget, Text: err.Error()}
		}
	}
	if f.unheard > 0 {
		f.unheard--
		panic(http.ErrAbortHandler)
	}
	return *e, nil
}

// make is a new endpoint.
func (f *fake) make(name string) *local.Attached {
	f.made++
	n := byte(f.made) + 1
	e := &local.Attached{VPC: "red", Endpoint: name, Device: fmt.Sprintf("host%d", n), MTU: 1400, Epoch: 1,
		MAC: cluster.MAC{0x0a, 0, 0, 0, 0, n},
		Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: n}), 64)},
		Gateways: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 1}), netip.AddrFrom16([16]byte{0: 0xfd, 15: 1})}}
	f.endpoints[name] = e
	return e
}

// place makes the pair of devices.
func (f *fake) place(e *local.Attached, q local.AttachRequest) error {
	ns, err := openNamespace(q.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: e.Device, MTU: e.MTU, Flags: net.FlagUp}, PeerName: q.Inner, PeerHardwareAddr: e.MAC[:], PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	inner, err := h.LinkByName(q.Inner)
	if err == nil {
		err = h.LinkSetUp(inner)
	}
	for _, a := range e.Addresses {
		if err == nil {
			ip := toIPNet(a)
			err = h.AddrAdd(inner, &netlink.Addr{IPNet: &ip, Flags: unix.IFA_F_NODAD})
		}
	}
	for _, g := range e.Gateways {
		if err == nil {
			err = h.RouteAdd(&netlink.Route{LinkIndex: inner.Attrs().Index, Gw: g.AsSlice()})
		}
	}
	e.Netns, e.Inner, e.For, e.Trusted, e.State = q.Netns, q.Inner, q.For, q.Trust, cluster.PortReady
	return err
}

func (f *fake) detach(q local.DetachRequest) (any, *local.Refusal) {
	f.mu.Lock()
	r, e := f.refuse[q.Endpoint], f.endpoints[q.Endpoint]
	f.mu.Unlock()
	switch {
	case r != nil:
		return nil, r
	case e == nil:
		return nil, &local.Refusal{Code: local.CodeNotFound, Text: "there is no endpoint " + q.Endpoint}
	}
	f.remove(q.Endpoint)
	if q.Delete && e.Created {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.endpoints, q.Endpoint)
	}
	return struct{}{}, nil
}

// remove takes the pair of devices away.
func (f *fake) remove(endpoint string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.endpoints[endpoint]
	if link, err := netlink.LinkByName(e.Device); err == nil {
		_ = netlink.LinkDel(link) // it may go with the namespace at this moment
	}
	e.Netns, e.Inner, e.For, e.State = "", "", "", ""
}

func (f *fake) ports() (list []local.Attached) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.endpoints)) {
		if e := f.endpoints[name]; e.State != "" {
			list = append(list, *e)
		}
	}
	return list
}

// names are all endpoints that there are.
func (f *fake) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.endpoints))
}
