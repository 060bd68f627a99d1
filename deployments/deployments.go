// Package deployments holds what a host's other programs need to run meshvpc
// and to leave it alone. The files are to be copied by hand; those of the two
// services are also what `meshvpc service install` writes, with the paths of
// the host put in place of the usual ones.
package deployments

import "embed"

// Services are the files of the two services: a unit each in systemd, a script
// each in rc.d.
//
//go:embed systemd rc.d
var Services embed.FS
