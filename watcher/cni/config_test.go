package cni

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// TestWrongConfig: mistakes have the specification's codes, and say what to change.
func TestWrongConfig(t *testing.T) {
	for name, tt := range map[string]struct {
		in   string
		code uint
		says string
	}{
		"no JSON":           {`{"vpc"`, types.ErrDecodingFailure, "unexpected end"},
		"wrong type":        {`{"vpc": 7}`, types.ErrDecodingFailure, "vpc"},
		"no VPC":            {`{"name": "n"}`, types.ErrInvalidNetworkConfig, "names no VPC"},
		"VPC's name":        {`{"vpc": "Red"}`, types.ErrInvalidNetworkConfig, `VPC name "Red"`},
		"endpoint's name":   {`{"vpc": "red", "endpoint": "a/b"}`, types.ErrInvalidNetworkConfig, `endpoint "a/b"`},
		"unknown key":       {`{"vpc": "red", "endpont": "web1"}`, types.ErrUnsupportedField, `"endpont": "web1"`},
		"other case":        {`{"VPC": "red"}`, types.ErrUnsupportedField, `"VPC": "red"`},
		"ipam":              {`{"vpc": "red", "ipam": {"type": "host-local"}}`, types.ErrUnsupportedField, `"ipam": {"type": "host-local"}`},
		"masquerade":        {`{"vpc": "red", "ipMasq": true}`, types.ErrUnsupportedField, `"ipMasq": true`},
		"capabilities":      {`{"vpc": "red", "runtimeConfig": {"ips": ["10.0.0.9/24"]}}`, types.ErrUnsupportedField, `"runtimeConfig": {"ips"`},
		"unreadable result": {`{"cniVersion": "1.1.0", "vpc": "red", "prevResult": {"ips": 3}}`, types.ErrDecodingFailure, "prevResult"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readConfig([]byte(tt.in))
			e, ok := errors.AsType[*types.Error](err)
			if !ok || e.Code != tt.code || !strings.Contains(e.Msg, tt.says) {
				t.Errorf("readConfig(%s): %+v; want code %d and %q", tt.in, err, tt.code, tt.says)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	c, err := readConfig([]byte(`{"cniVersion": "1.1.0", "name": "n", "type": "meshvpc", "vpc": "red", "endpoint": "web1", "trust": true, "ipam": {}, "ipMasq": false,
		"args": {"cni": {"vpc": "blue"}}, "capabilities": {"dns": true}, "runtimeConfig": {}, "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.VPC != "red" || c.Endpoint != "web1" || !c.Trust || c.previous != nil || len(c.ValidAttachments) != 1 {
		t.Errorf("readConfig: %+v", c)
	}
}

// TestPrintError: code and version stand where runtimes look for them.
func TestPrintError(t *testing.T) {
	var out strings.Builder
	if err := printError(&out, "0.4.0", types.NewError(11, "not now", "wait")); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	if got["cniVersion"] != "0.4.0" || got["code"] != 11.0 || got["msg"] != "not now" || got["details"] != "wait" {
		t.Errorf("printError: %s", out.String())
	}
}
