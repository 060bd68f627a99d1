package linux

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

type rule struct {
	text  string
	exprs []expr.Any
}

func comment(text string) []byte { return userdata.AppendString(nil, userdata.TypeComment, text) }

func commentOf(r *nftables.Rule) string {
	s, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	return s
}

// rules are those of the chain, in order. The first spares frames within our
// bridges, which come by here where bridge-nf-call-iptables is set: a tenant's
// own VXLAN is not ours, and none is for the host, as the bridges are sealed. The
// last drops what comes to the port and is too short
// to hold a VNI: a first fragment, whose rest would not be judged.
func rules(port uint16) []rule {
	text := func(what string) string { return fmt.Sprintf("meshvpc %s %d", what, port) }
	group := binary.NativeEndian.AppendUint32(nil, hostops.GroupBase)
	groupMask := binary.NativeEndian.AppendUint32(nil, 0xff000000)
	return []rule{
		{text("inner"), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: groupMask, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: group},
			&expr.Verdict{Kind: expr.VerdictAccept},
		}},
		{text("fenced4"), fromFenced(port, unix.NFPROTO_IPV4, 12, 4, setFenced4)},
		{text("fenced6"), fromFenced(port, unix.NFPROTO_IPV6, 8, 16, setFenced6)},
		{text("source4"), fromPeer(port, unix.NFPROTO_IPV4, 12, 4, setPeers4)},
		{text("source6"), fromPeer(port, unix.NFPROTO_IPV6, 8, 16, setPeers6)},
		{text("place4"), fromPlace(port, unix.NFPROTO_IPV4, 12, 4, setPlaces4)},
		{text("place6"), fromPlace(port, unix.NFPROTO_IPV6, 8, 16, setPlaces6)},
		{text("judged"), slices.Concat(toPort(port), loadVNI(1), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}})},
		{text("short"), slices.Concat(toPort(port), []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}})},
	}
}

// fromPeer drops what comes to the port with one of our VNIs from an address that
// is none of the VNI's peers. The source address is length bytes at offset in the
// header of an IP version.
func fromPeer(port uint16, version byte, offset, length uint32, peers string) []expr.Any {
	return slices.Concat(ofVNI(port, version, setVNIs, offset, length), loadVNI(unix.NFT_REG32_00+length/4),
		[]expr.Any{
			&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: peers, Invert: true},
			&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop},
		})
}

// ofVNI matches what comes to the port with one of the VNIs in a set, and puts the
// source address into the registers from NFT_REG32_00 on.
func ofVNI(port uint16, version byte, vnis string, offset, length uint32) []expr.Any {
	return slices.Concat(
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{version}},
		},
		toPort(port), loadVNI(1),
		[]expr.Any{
			&expr.Lookup{SourceRegister: 1, SetName: vnis},
			&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length, DestRegister: unix.NFT_REG32_00},
		})
}

func toPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: u16be(port)},
	}
}

// loadVNI puts the VNI into a register as vniKey has it. It reads four bytes,
// so that a key is a multiple of a register.
func loadVNI(register uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 12, Len: 4, DestRegister: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: []byte{255, 255, 255, 0}, Xor: make([]byte, 4)},
	}
}

// portOf tells for which port rs are exactly the rules of ours; zero: they are not.
func portOf(rs []*nftables.Rule, ours func(port uint16) []rule) uint16 {
	if len(rs) == 0 {
		return 0
	}
	text := commentOf(rs[0])
	n, err := strconv.ParseUint(text[strings.LastIndexByte(text, ' ')+1:], 10, 16)
	if err != nil {
		return 0
	}
	want := ours(uint16(n))
	if len(rs) != len(want) {
		return 0
	}
	for i, r := range want {
		if commentOf(rs[i]) != r.text || len(rs[i].Exprs) != len(r.exprs) {
			return 0
		}
	}
	return uint16(n)
}
