package cluster

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// keysOf builds every kind of key.
func keysOf(node, vpc string, v VNI, a netip.Addr) map[string]Key {
	return map[string]Key{
		KeyConfig:                          {Kind: KindConfig},
		KeyLeader:                          {Kind: KindLeader, Name: "controller"},
		KeyNode(node):                      {Kind: KindNode, Node: node},
		KeyLive(node):                      {Kind: KindLive, Node: node},
		KeyVPCSpec(vpc):                    {Kind: KindVPCSpec, VPC: vpc},
		KeyVPCNet(vpc):                     {Kind: KindVPCNet, VPC: vpc},
		KeyVPCPing(vpc):                    {Kind: KindVPCPing, VPC: vpc},
		KeyMember(vpc, node):               {Kind: KindMember, VPC: vpc, Node: node},
		KeyHostVPC(node, vpc):              {Kind: KindHostVPC, VPC: vpc, Node: node},
		KeyHostLink(node, vpc, node):       {Kind: KindHostLink, VPC: vpc, Node: node, Name: node},
		KeyNodeStatus(node):                {Kind: KindNodeStatus, Node: node},
		KeyVPCStatus(node, vpc):            {Kind: KindVPCStatus, VPC: vpc, Node: node},
		KeyVPCFind(vpc):                    {Kind: KindVPCFind, VPC: vpc},
		KeyFindResult(node, vpc):           {Kind: KindFindResult, VPC: vpc, Node: node},
		KeyPingResult(node, vpc):           {Kind: KindPingResult, VPC: vpc, Node: node},
		KeyAllocVNI(v):                     {Kind: KindAllocVNI, Name: strings.TrimPrefix(KeyAllocVNI(v), PrefixVNIs)},
		KeyAllocVTEP(vpc, a):               {Kind: KindAllocVTEP, VPC: vpc, Name: a.String()},
		KeyAllocIP(vpc, a):                 {Kind: KindAllocIP, VPC: vpc, Name: a.String()},
		KeyAllocMAC(vpc, MAC{2}):           {Kind: KindAllocMAC, VPC: vpc, Name: "02:00:00:00:00:00"},
		KeyEndpointSpec(vpc, node):         {Kind: KindEndpoint, VPC: vpc, Name: node},
		KeyEndpointOwn(vpc, node):          {Kind: KindOwn, VPC: vpc, Name: node},
		KeyEndpointStatus(node, vpc, node): {Kind: KindPort, VPC: vpc, Node: node, Name: node},
		KeyMACStatus(node, vpc, MAC{2}):    {Kind: KindMACStatus, VPC: vpc, Node: node, Name: "02:00:00:00:00:00"},
		KeyPublished(vpc, MAC{2}):          {Kind: KindPublished, VPC: vpc, Name: "02:00:00:00:00:00"},
		KeyRequest(node, vpc, node):        {Kind: KindRequest, VPC: vpc, Node: node, Name: node},
		KeyEndpointHold(vpc, node):         {Kind: KindHold, VPC: vpc, Name: node},
		KeyJudgement:                       {Kind: KindJudgement},
		KeyFence(node):                     {Kind: KindFence, Node: node},
		KeyVerdicts(node):                  {Kind: KindVerdicts, Node: node},
		KeyFenceStatus(node):               {Kind: KindFenced, Node: node},
		KeyServer(node):                    {Kind: KindServer, Name: node},
		KeyEvent(time.UnixMilli(1800000000123), uint64(v)): {Kind: KindEvent, Name: strings.TrimPrefix(KeyEvent(time.UnixMilli(1800000000123), uint64(v)), PrefixEvents)},
	}
}

func TestParseKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		node := rapid.StringMatching(nodeName).Draw(t, "node")
		vpc := rapid.StringMatching(vpcName).Filter(func(s string) bool { return CheckVPCName(s) == nil }).Draw(t, "vpc")
		v := VNI(rapid.Uint32Range(1, uint32(MaxVNI)).Draw(t, "vni"))
		a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address"))
		if rapid.Bool().Draw(t, "ipv4") {
			b := a.As16()
			a = netip.AddrFrom4([4]byte(b[:4]))
		}
		if a.Is4In6() {
			return
		}
		for key, want := range keysOf(node, vpc, v, a) {
			if got, err := ParseKey(key); err != nil || got != want {
				t.Fatalf("ParseKey(%q) = %+v, %v; want %+v", key, got, err, want)
			}
			if len(key) > maxKey/2+maxKey/4 {
				t.Fatalf("%q has %d bytes, too near to the bound of %d", key, len(key), maxKey)
			}
			if newRecord(want.Kind) == nil {
				t.Fatalf("no record for %q", want.Kind)
			}
		}
	})
}

func TestParseKeyRefuses(t *testing.T) {
	for name, key := range map[string]string{
		"empty":               "",
		"root":                Root,
		"another root":        "/other/v1/config",
		"root without slash":  "meshvpc/v1/config",
		"family":              PrefixNodes,
		"unknown family":      Root + "events/1",
		"too deep":            KeyNode("a") + "/b",
		"slash last":          KeyNode("a") + "/",
		"double slash":        Root + "/nodes/a",
		"upper case":          KeyNode("A"),
		"dots":                KeyNode(".."),
		"no VPC name":         KeyVPCSpec("1st"),
		"reserved VPC":        KeyVPCSpec("all"),
		"no node name":        KeyMember("blue", "-a"),
		"line end":            KeyNode("a\n"),
		"escape":              KeyNode("\x1b[31m"),
		"NUL":                 KeyNode("a\x00"),
		"VNI without zeros":   PrefixVNIs + "7",
		"VNI zero":            PrefixVNIs + "00000000",
		"VNI too large":       PrefixVNIs + "16777216",
		"VNI with sign":       PrefixVNIs + "+0000007",
		"VTEP no address":     PrefixAllocVTEP("blue") + "a",
		"VTEP with zone":      PrefixAllocVTEP("blue") + "fe80::1%eth0",
		"VTEP 4in6":           PrefixAllocVTEP("blue") + "::ffff:10.0.0.1",
		"VTEP not canonical":  PrefixAllocVTEP("blue") + "fd00:0::1",
		"VTEP prefix":         PrefixAllocVTEP("blue") + "10.0.0.0/8",
		"server with colon":   KeyServer("a:1"),
		"event without time":  PrefixEvents + "0000000000000007",
		"event of other form": PrefixEvents + "1800000000123-7",
		"longer than any key": KeyNode(strings.Repeat("a", 1<<16)),
	} {
		t.Run(name, func(t *testing.T) {
			k, err := ParseKey(key)
			if !errors.Is(err, ErrUnknownKey) || k != (Key{}) {
				t.Fatalf("ParseKey(%.80q) = %+v, %v; want ErrUnknownKey", key, k, err)
			}
			if s := err.Error(); CleanText(s) != s && len(s) < maxText {
				t.Errorf("the error is not fit to print: %q", s)
			}
		})
	}
}

func FuzzParseKey(f *testing.F) {
	for key := range keysOf("gold-1", "blue", 7, netip.MustParseAddr("10.100.0.1")) {
		f.Add(key)
	}
	for key := range keysOf("a", "b", MaxVNI, netip.MustParseAddr("fd00:100::1")) {
		f.Add(key)
	}
	f.Add(Root + "nodes//a")
	f.Add(PrefixAllocVTEP("blue") + "::ffff:1.2.3.4")
	f.Fuzz(func(t *testing.T, key string) {
		k, err := ParseKey(key)
		if err != nil {
			if !errors.Is(err, ErrUnknownKey) {
				t.Errorf("ParseKey(%q): %v", key, err)
			}
			return
		}
		if k.build() != key {
			t.Errorf("ParseKey(%q) = %+v, which is written %q", key, k, k.build())
		}
	})
}

// build writes a key again.
func (k Key) build() string {
	for _, p := range patterns {
		if p.kind == k.Kind {
			return Root + strings.NewReplacer("{node}", k.Node, "{vpc}", k.VPC, "{name}", k.Name).Replace(p.path)
		}
	}
	return ""
}

func TestMayWrite(t *testing.T) {
	operator, controller := Identity{Role: Operator}, Identity{Role: Controller}
	me, other := Identity{Agent, "me"}, Identity{Agent, "other"}
	all := []Identity{operator, controller, me, other, {}, {Role: "root"}}
	addr := netip.MustParseAddr("10.0.0.1")
	for key := range keysOf("me", "blue", 7, addr) {
		var put, del []Identity
		switch key {
		case KeyConfig, KeyNode("me"), KeyServer("me"):
			put, del = []Identity{operator}, []Identity{operator}
		case KeyVPCSpec("blue"), KeyVPCPing("blue"), KeyVPCFind("blue"), KeyEndpointHold("blue", "me"):
			put, del = []Identity{operator}, []Identity{operator, controller}
		case KeyEndpointSpec("blue", "me"):
			put, del = []Identity{operator, controller}, []Identity{operator, controller}
		case KeyLive("me"), KeyNodeStatus("me"), KeyVPCStatus("me", "blue"), KeyPingResult("me", "blue"), KeyFindResult("me", "blue"), KeyEndpointStatus("me", "blue", "me"), KeyMACStatus("me", "blue", MAC{2}), KeyRequest("me", "blue", "me"), KeyVerdicts("me"), KeyFenceStatus("me"):
			put, del = []Identity{me}, []Identity{me, controller}
		case KeyLeader, KeyJudgement, KeyFence("me"), KeyVPCNet("blue"), KeyMember("blue", "me"), KeyHostVPC("me", "blue"), KeyHostLink("me", "blue", "me"), KeyAllocVNI(7), KeyAllocVTEP("blue", addr), KeyAllocIP("blue", addr), KeyAllocMAC("blue", MAC{2}), KeyPublished("blue", MAC{2}), KeyEndpointOwn("blue", "me"):
			put, del = []Identity{controller}, []Identity{controller}
		case KeyEvent(time.UnixMilli(1800000000123), 7):
			put, del = []Identity{operator, controller}, []Identity{controller}
		default:
			t.Errorf("who writes %s?", key)
		}
		for _, id := range all {
			for deleting, may := range map[bool][]Identity{false: put, true: del} {
				err := MayWrite(id, key, deleting)
				want := false
				for _, m := range may {
					want = want || m == id
				}
				if (err == nil) != want || err != nil && !errors.Is(err, ErrInvalid) {
					t.Errorf("%v writes %s, deleting %v: %v, want allowed %v", id, key, deleting, err, want)
				}
			}
		}
	}
	if err := MayWrite(operator, Root+"events/1", false); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("an unknown key: %v, want ErrUnknownKey", err)
	}
}
