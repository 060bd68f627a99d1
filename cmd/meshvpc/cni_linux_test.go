package main

import "testing"

func TestByRuntime(t *testing.T) {
	for name, tt := range map[string]struct {
		args    []string
		command string
		want    bool
	}{
		"plugin by name":         {[]string{"/opt/cni/bin/meshvpc-cni"}, "", true},
		"plugin by environment":  {[]string{"/opt/cni/bin/meshvpc"}, "ADD", true},
		"a person":               {[]string{"meshvpc"}, "", false},
		"a command in a runtime": {[]string{"meshvpc", "status"}, "ADD", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := byRuntime(tt.args, tt.command); got != tt.want {
				t.Errorf("byRuntime(%q, %q) = %v", tt.args, tt.command, got)
			}
		})
	}
}
