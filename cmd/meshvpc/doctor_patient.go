package main

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster/membership"
)

// patient is the host, by its files. A file that is not there is nil.
type patient struct {
	dirs
	agent      *agentConfig
	server     *serverConfig
	client     *clientConfig
	clientFile string
	bad        []error // files that cannot be read
	now        func() time.Time
}

func newPatient(clientFile string, now func() time.Time) *patient {
	t := &patient{dirs: hostDirs(), clientFile: clientFile, now: now}
	t.agent = readIf[agentConfig](t, t.dirs.agent())
	t.server = readIf[serverConfig](t, t.dirs.server())
	t.client = readIf[clientConfig](t, clientFile)
	return t
}

func readIf[T any](t *patient, path string) *T {
	v := new(T)
	err := readConfig(path, v)
	if err == nil {
		return v
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.bad = append(t.bad, err)
	}
	return nil
}

// looks are all, in the order in which they are told.
func (t *patient) looks() []look {
	list := []look{
		{"files", t.lookFiles},
		{"kernel", t.lookKernel},
		{"server", t.lookServer},
		{"agent", t.lookAgent},
	}
	for _, e := range t.endpoints() {
		list = append(list, look{"store " + e, func(ctx context.Context) seen { return t.lookEndpoint(ctx, e) }})
	}
	list = append(list, look{"quorum", t.lookQuorum})
	for _, address := range t.joinServices() {
		list = append(list, look{"joins and clock " + address, func(ctx context.Context) seen { return t.lookJoins(ctx, address) }})
	}
	return append(list, look{"certificates", t.lookCertificates}, look{"disk", t.lookDisk},
		look{"underlay", t.lookUnderlay}, look{"path MTU", t.lookPaths}, look{"other programs", t.lookOthers})
}

// endpoints are the servers that the host's files name.
func (t *patient) endpoints() []string {
	var all []string
	if t.agent != nil {
		all = append(all, t.agent.Endpoints...)
	}
	if t.client != nil {
		all = append(all, t.client.Endpoints...)
	}
	var list []string
	for _, e := range all {
		if hp, err := hostPort(e, clientPort); err == nil && !slices.Contains(list, hp) {
			list = append(list, hp)
		}
	}
	return list
}

// joinServices are those of the servers that the host's files name.
func (t *patient) joinServices() []string {
	named := elsewhere{}
	if t.client != nil {
		named.Servers = t.client.Servers
	}
	if t.agent != nil && len(t.agent.Servers) > 0 {
		named.Servers = t.agent.Servers
	}
	return named.joins(t.endpoints())
}

// credential is who this host is to the servers: the node, else whom the client
// file names. None: the store is spoken to in the clear.
func (t *patient) credential() (c membership.Credential, source string, err error) {
	switch {
	case t.agent != nil && t.agent.TLS != nil:
		c, err = t.agent.TLS.load()
		return c, t.dirs.agent(), err
	case t.client != nil && t.client.CA != "":
		return t.client.credential(), t.clientFile, nil
	case t.agent != nil:
		return c, t.dirs.agent(), nil
	}
	return c, t.clientFile, nil
}
