package cni

import (
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

// TestDeployedNetwork: the network that we hand out is one, in the newest version
// that a runtime knows, its keys are ours, and README shows the same.
func TestDeployedNetwork(t *testing.T) {
	text, err := os.ReadFile("../../deployments/cni/10-meshvpc.conflist")
	if err != nil {
		t.Fatal(err)
	}
	list, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Plugins) != 1 || list.CNIVersion != "1.1.0" || list.Plugins[0].Network.Type != "meshvpc" {
		t.Fatalf("the network is %+v", list)
	}
	if c, err := readConfig(list.Plugins[0].Bytes); err != nil || c.VPC != "vpc1" {
		t.Errorf("readConfig: %+v, %v", c, err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), string(text)) {
		t.Error("README shows another network")
	}
}
