package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// defaultRotate is how long `cluster rotate-ca` waits for others in each phase.
const defaultRotate = 2 * time.Minute

func (p *program) clusterRotateCommand() *cli.Command {
	return p.verb("rotate-ca", "", "put a new CA in the place of the cluster's, while all runs; on a server, and again if it was cut short", []cli.Flag{
		&cli.StringSliceFlag{Name: "leave-behind", Usage: "nodes and servers, `A,B`, not to wait for: they have to join again"},
		yesFlag(),
		timeoutFlag(defaultRotate, "how long to wait for the others, in each phase"),
		outputFlag(),
	}, p.clusterRotate)
}

// rotateReport is `cluster rotate-ca -o json`.
type rotateReport struct {
	Former string `json:"former"` // pins
	CA     string `json:"ca"`
	Phase  string `json:"phase"`
}

// rotation is a replacement of the CA, driven by this host's server, whose
// certificate it uses.
type rotation struct {
	*session
	server serverConfig
	leave  []string
	wait   time.Duration
	now    func() time.Time
	say    func(format string, args ...any)
}

func (p *program) clusterRotate(ctx context.Context, c *cli.Context) error {
	r := &rotation{leave: c.StringSlice("leave-behind"), wait: c.Duration("timeout"), now: p.now,
		say: func(format string, args ...any) { fmt.Fprintf(p.err, format+"\n", args...) }}
	for _, name := range r.leave {
		if cluster.CheckNodeName(name) != nil {
			return usage("want names of nodes, as in \"meshvpc node list\"", "invalid name %q in --leave-behind", name)
		}
	}
	err := readConfig(hostDirs().server(), &r.server)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && r.server.Witness:
		return failed("run it on a host that \"meshvpc cluster members\" lists as a server", "rotate CA: the CA's key is not on this host")
	case err != nil:
		return err
	case r.server.External != nil:
		return failed("have your etcd trust a new CA, and make the cluster anew by a backup", "rotate CA: the store is an external etcd, which reads the CAs that it trusts when its operator restarts it")
	}
	if slices.Contains(r.leave, r.server.Name) {
		return usage("start what does not run here, or run this on another server", "--leave-behind %s: that is this host, whose server makes the CA", r.server.Name)
	}
	endpoints := withKnown(r.server.endpoints())
	urls, err := storeURLs(endpoints, true)
	if err != nil {
		return err
	}
	dialled, err := client.Dial(client.Config{Endpoints: urls, TLS: membership.Dialer(r.server.TLS.load)}) // its files change meanwhile
	if err != nil {
		return err
	}
	defer dialled.Close()
	r.session = &session{cli: dialled, endpoints: endpoints, source: hostDirs().server(), call: defaultCall,
		store: store.New(client.New(dialled), cluster.Identity{Role: cluster.Operator}).WithTimeout(defaultCall)}
	former, err := r.signer()
	if err != nil {
		return err
	}
	begun, err := store.Get[*cluster.Config](ctx, r.store, cluster.KeyConfig)
	if err != nil {
		return r.explain(ctx, err)
	}
	if t := begun.Value.Trust; (t == nil || t.Phase == cluster.TrustDone) && !c.Bool("yes") {
		if err := p.confirmBy(c, "the name of the cluster", begun.Value.Cluster, "the CA stays"); err != nil {
			return err
		}
	}
	if err := r.run(ctx); err != nil {
		return r.explain(ctx, err)
	}
	now, err := r.signer()
	if err != nil {
		return err
	}
	return p.print(c, rotateReport{Former: former, CA: now, Phase: string(cluster.TrustDone)}, func(w io.Writer) {
		fmt.Fprintf(w, "the cluster's CA is a new one, %s; certificates of the one before open nothing\n", now)
		fmt.Fprintf(w, "tokens that were made before let nobody in: meshvpc cluster token create\n")
		fmt.Fprintf(w, "people whose client file was not used meanwhile get another: meshvpc cluster credential create\n")
		fmt.Fprintf(w, "backups made before hold the former CA: make one now: meshvpc cluster backup FILE\n")
	})
}

// signer is the pin of the CA that signs, in this server's files.
func (r *rotation) signer() (string, error) {
	own, err := r.server.TLS.load()
	if err != nil {
		return "", err
	}
	pin, err := own.CAPin()
	return pin.String(), err
}

// run takes the phases that are left.
func (r *rotation) run(ctx context.Context) error {
	for {
		var it store.Item[*cluster.Config]
		err := retryUnavailable(ctx, func() (err error) {
			it, err = store.Get[*cluster.Config](ctx, r.store, cluster.KeyConfig)
			return err
		})
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		was, t := it.Value.Trust, it.Value.Trust
		if t == nil || t.Phase == cluster.TrustDone {
			if t, err = r.begin(it.Value.Cluster); err != nil {
				return err
			}
			r.say("a new CA is made: all nodes and servers learn to trust it")
		} else {
			if t, err = r.leaveBehind(ctx, t); err != nil {
				return err
			}
			if err := r.await(ctx, t); err != nil {
				return err
			}
			t = next(t)
			r.say("phase %s", t.Phase)
		}
		if err := r.set(ctx, was, t); err != nil {
			return err
		}
		if t.Phase == cluster.TrustDone {
			return r.forget(ctx)
		}
	}
}

// next is the phase after t's, when all are over. It is pure.
func next(t *cluster.Trust) *cluster.Trust {
	n := *t
	switch t.Phase {
	case cluster.TrustAdd:
		n.Phase, n.CAs = cluster.TrustSign, []string{t.CAs[1], t.CAs[0]}
	case cluster.TrustSign:
		n.Phase, n.CAs = cluster.TrustDrop, t.CAs[:1]
	default:
		n.Phase, n.LeftBehind = cluster.TrustDone, nil
	}
	return &n
}

// begin makes the new CA. Its key is on this host's disk before anybody hears of it.
func (r *rotation) begin(name string) (*cluster.Trust, error) {
	old, err := r.server.TLS.loadCA()
	if err != nil {
		return nil, err
	}
	fresh, err := membership.NewCA(name, r.now())
	if err != nil {
		return nil, err
	}
	keys, err := os.ReadFile(r.server.TLS.CAKey)
	if err != nil {
		return nil, fmt.Errorf("read CA keys: %w", err)
	}
	more, err := fresh.KeyPEM()
	if err != nil {
		return nil, err
	}
	bundle := slices.Concat(old.CertPEM(), fresh.CertPEM())
	if keys, err = membership.MergeKeys(bundle, keys, more); err != nil {
		return nil, err
	}
	if err := writeFile(r.server.TLS.CAKey, keys); err != nil {
		return nil, err
	}
	return &cluster.Trust{Phase: cluster.TrustAdd, CAs: []string{string(old.CertPEM()), string(fresh.CertPEM())}, Since: cluster.At(r.now()), LeftBehind: r.leave}, nil
}

// leaveBehind adds what this run was told to leave behind.
func (r *rotation) leaveBehind(ctx context.Context, t *cluster.Trust) (*cluster.Trust, error) {
	n := *t
	n.LeftBehind = slices.Clone(t.LeftBehind)
	for _, name := range r.leave {
		if t.Waits(name) {
			n.LeftBehind = append(n.LeftBehind, name)
		}
	}
	if len(n.LeftBehind) == len(t.LeftBehind) {
		return t, nil
	}
	return &n, r.set(ctx, t, &n)
}

// set writes how far it is, whatever else changes in the config, unless another
// does so, too.
func (r *rotation) set(ctx context.Context, was, t *cluster.Trust) error {
	return retryUnavailable(ctx, func() error {
		return edit(ctx, r.session, cluster.KeyConfig, func(c *cluster.Config) error {
			if stage(c.Trust) != stage(was) && stage(c.Trust) != stage(t) {
				return failed("see \"meshvpc cluster status\"", "rotate CA: somebody else replaces the CA at the same time")
			}
			c.Trust = t
			return nil
		})
	})
}

// stage tells the phases of replacements apart.
func stage(t *cluster.Trust) string {
	if t == nil {
		return ""
	}
	return string(t.Phase) + t.CAs[0]
}

// await waits until all are over in t's phase.
func (r *rotation) await(ctx context.Context, t *cluster.Trust) error {
	end := r.now().Add(r.wait)
	said := ""
	for {
		old, err := stillOld(ctx, r.store, t)
		if err == nil && len(old) == 0 {
			return nil
		}
		text := strings.Join(slices.Sorted(maps.Keys(old)), ", ")
		if err == nil && text != said {
			said = text
			r.say("phase %s: waiting for %s", t.Phase, text)
		}
		if r.now().After(end) {
			if err != nil {
				return err
			}
			return leftOver(t, old, r.wait)
		}
		if !store.Sleep(ctx, trustRetry) {
			return ctx.Err()
		}
	}
}

// leftOver says who is not over, and what to do.
func leftOver(t *cluster.Trust, old map[string]string, wait time.Duration) error {
	var whys, names []string
	for _, who := range slices.Sorted(maps.Keys(old)) {
		whys = append(whys, who+" ("+old[who]+")")
		if _, name, _ := strings.Cut(who, " "); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return failed("start them and run this again; those that are gone: meshvpc node remove, or, to join again by a token: --leave-behind "+strings.Join(names, ","),
		"rotate CA: in phase %s, not over after %s: %s", t.Phase, wait, strings.Join(whys, ", "))
}

// stillOld reads who is not over in t's phase, and why.
func stillOld(ctx context.Context, s *store.Store, t *cluster.Trust) (map[string]string, error) {
	nodes, _, err := store.List[*cluster.Node](ctx, s, cluster.PrefixNodes)
	if err != nil {
		return nil, err
	}
	servers, _, err := store.List[*cluster.Server](ctx, s, cluster.PrefixSrvs)
	if err != nil {
		return nil, err
	}
	trusting, err := trustingOf(ctx, s)
	if err != nil {
		return nil, err
	}
	return membership.StillOld(t, byName(nodes), byName(servers), trusting)
}

func byName[T cluster.Record](list []store.Item[T]) map[string]T {
	m := map[string]T{}
	for _, it := range list {
		m[last(it.Key)] = it.Value
	}
	return m
}

// forget takes away what all have said meanwhile.
func (r *rotation) forget(ctx context.Context) error {
	list, err := trustingOf(ctx, r.store)
	if err != nil {
		return err
	}
	for key := range list {
		var change store.Change
		change.Remove(key, 0)
		if err := r.commit(ctx, change); err != nil {
			return err
		}
	}
	return nil
}

// trustWarning is what `cluster status` and doctor say of a replacement under way,
// "" if there is none.
func trustWarning(ctx context.Context, s *store.Store) (string, error) {
	it, err := store.Get[*cluster.Config](ctx, s, cluster.KeyConfig)
	if errors.Is(err, store.ErrNotFound) || cluster.Unreadable(err) {
		return "", nil //nolint:nilerr // "meshvpc status" tells it
	}
	if err != nil {
		return "", err
	}
	t := it.Value.Trust
	if t == nil || t.Phase == cluster.TrustDone {
		return "", nil
	}
	old, err := stillOld(ctx, s, t)
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("the cluster's CA is being replaced, since %s, phase %s", t.Since.UTC().Format(time.RFC3339), t.Phase)
	if len(old) > 0 {
		text += ": waiting for " + clean(strings.Join(slices.Sorted(maps.Keys(old)), ", "))
	}
	return text + "; it goes on by: meshvpc cluster rotate-ca, on a server", nil
}
