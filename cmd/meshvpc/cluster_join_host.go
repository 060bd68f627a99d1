package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// joiner is a host that is about to join.
type joiner struct {
	d      dirs
	token  membership.Token
	agent  agentConfig   // TLS nil: it will have none
	server *serverConfig // nil: it will be none
	dc     string
	here   cluster.Underlay // where to answer the server; empty: it does not ask

	viewer, node, key membership.Key // node: the agent's, key: the server's
	made              []string       // files that were not there
}

// join joins. What it has written it takes away again if it is certain that
// nothing has happened on the server.
func (j *joiner) join(ctx context.Context, address string) (r joinReport, err error) {
	asked := false
	defer func() {
		if err == nil || asked {
			return
		}
		for _, path := range j.made {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	q, err := j.prepare()
	if err != nil {
		return r, err
	}
	stop := func() {}
	if len(q.Underlay) > 0 {
		if stop, err = answerAt(ctx, j.node, j.here); err != nil {
			return r, err
		}
	}
	answer, ca, asked, err := askToJoin(ctx, address, j.token, q)
	stop()
	if err != nil {
		return r, err
	}
	asked = true
	if err := j.settle(ctx, address, answer, ca); err != nil {
		return r, err
	}
	return joinReport{Cluster: clean(answer.Cluster), Node: j.agent.Node, Role: string(j.token.Role), Datacenter: clean(answer.Datacenter), Endpoints: j.agent.Endpoints, Silent: answer.Silent}, nil
}

// prepare writes the keys, and the files that say who this host is, before a server
// knows, and returns what to ask for.
func (j *joiner) prepare() (q membership.JoinRequest, err error) {
	q = membership.JoinRequest{Name: j.agent.Node, ID: j.agent.ID, Datacenter: j.dc, Underlay: j.here.Advertised(), Version: version()}
	if j.viewer, err = j.keyed(j.d.pem(cluster.SubjectUser).Key, &q.Viewer); err != nil {
		return q, err
	}
	var before []file
	if j.agent.TLS != nil {
		if j.node, err = j.keyed(j.agent.TLS.Key, &q.Request); err != nil {
			return q, err
		}
		before = append(before, file{j.d.agent(), j.agent})
	}
	if j.server != nil {
		if q.Server, err = serverRequest(*j.server); err != nil {
			return q, err
		}
		if j.key, err = j.keyed(j.server.TLS.Key, &q.Server.Request); err != nil {
			return q, err
		}
		before = append(before, file{j.d.server(), j.server})
	}
	for _, f := range before {
		if _, err = os.Stat(f.path); errors.Is(err, fs.ErrNotExist) {
			j.made = append(j.made, f.path)
			err = f.write()
		}
		if err != nil {
			return q, err
		}
	}
	return q, nil
}

// keyed makes a key, or takes the one that is there, and asks for a certificate.
func (j *joiner) keyed(path string, request *string) (membership.Key, error) {
	key, fresh, err := newKeyFile(path)
	if fresh {
		j.made = append(j.made, path)
	}
	if err != nil {
		return key, err
	}
	b, err := key.Request()
	*request = string(b)
	return key, err
}

// settle writes what the server has given.
func (j *joiner) settle(ctx context.Context, address string, answer membership.JoinAnswer, ca []byte) error {
	agent := &j.agent
	if answer.StoreCA != "" && agent.TLS != nil {
		agent.Endpoints, agent.Servers = nil, answer.Servers
		agent.TLS.StoreCA = filepath.Join(filepath.Dir(agent.TLS.CA), "store-ca.crt")
		if err := writeFile(agent.TLS.StoreCA, []byte(answer.StoreCA)); err != nil {
			return err
		}
	}
	for _, e := range answer.Endpoints {
		if !slices.Contains(agent.Endpoints, e) {
			agent.Endpoints = append(agent.Endpoints, e)
		}
	}
	reader := newClientConfig(agent.Endpoints, membership.Credential{CA: ca, Cert: []byte(answer.Viewer), Key: j.viewer.PEM, StoreCA: []byte(answer.StoreCA)})
	reader.Servers = agent.Servers
	files := []file{{j.d.client(), reader}}
	if agent.TLS != nil {
		files = append(files, file{agent.TLS.CA, ca}, file{agent.TLS.Cert, []byte(answer.Certificate)}, file{j.d.agent(), *agent})
	}
	if j.server != nil {
		own := membership.Credential{CA: ca, Cert: []byte(answer.Server), Key: j.key.PEM}
		more, err := serverFiles(ctx, j.d, address, *j.server, own, agent.Endpoints)
		if err != nil {
			return err
		}
		files = append(files, more...)
	}
	for _, f := range files {
		if err := f.write(); err != nil {
			return err
		}
	}
	return nil
}

// askToJoin asks until there is an answer or ctx ends. asked: the host may have
// been let in, also with an error.
func askToJoin(ctx context.Context, address string, t membership.Token, q membership.JoinRequest) (answer membership.JoinAnswer, ca []byte, asked bool, err error) {
	wait := 50 * time.Millisecond
	for {
		answer, ca, err = membership.Join(ctx, address, t, q)
		var code membership.Code
		if r, refused := errors.AsType[*membership.Refusal](err); refused {
			code = r.Code
		}
		dial, cut := errors.AsType[*net.OpError](err)
		switch {
		case err == nil, errors.Is(err, membership.ErrUntrusted):
			return answer, ca, asked, err
		case code == membership.CodeUnavailable, code == "" && !(cut && dial.Op == "dial"):
			asked = true
		case code != "" && code != membership.CodeNoCluster:
			return answer, ca, asked, err
		}
		if !store.Sleep(ctx, wait) {
			return answer, ca, asked, err
		}
		wait = min(2*wait, time.Second)
	}
}
