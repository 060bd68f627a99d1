package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// serviceHost is the host, or the root of an image, whose services are meant.
type serviceHost struct {
	manager
	places
	root string // "" is this host
	only string // "" is all that this host is
	run  runner
}

// serviceHost reads the flags that all verbs share.
func (p *program) serviceHost(c *cli.Context) (serviceHost, error) {
	h := serviceHost{manager: hostManager(), places: places{dirs: hostDirs()}, root: c.String("root"), only: c.String("only"), run: runCommand}
	if h.root == "" {
		h.dir = envOr("MESHVPC_UNIT_DIR", h.dir)
	}
	if h.only != "" && h.only != "agent" && h.only != "server" {
		return h, usage("want agent or server", "unknown service %q", h.only)
	}
	own, err := os.Executable()
	if err != nil {
		return h, fmt.Errorf("find this program: %w", err)
	}
	h.program = cmp.Or(c.String("binary"), own)
	for _, path := range []string{h.program, h.dirs.config, h.dirs.state, h.dirs.run} {
		if !plainPath.MatchString(path) {
			return h, usage("want an absolute path of letters, digits and /._+@-", "a unit cannot hold the path %q", path)
		}
	}
	return h, nil
}

// at is where a path of the host lies.
func (h serviceHost) at(path string) string { return filepath.Join(h.root, path) }

// exists reports whether the host has a path, be it a link that leads nowhere.
func (h serviceHost) exists(path string) (bool, error) {
	_, err := os.Lstat(h.at(path))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// services are the agent and the server as they are on the host, or the one that
// --only names.
func (h serviceHost) services(ctx context.Context) ([]service, error) {
	var list []service
	for _, name := range []string{"agent", "server"} {
		if h.only != "" && h.only != name {
			continue
		}
		s, err := h.service(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("look at service %s: %w", name, err)
		}
		list = append(list, s)
	}
	return list, nil
}

func (h serviceHost) service(ctx context.Context, name string) (s service, err error) {
	s = service{name: name, unit: h.unit(name), path: filepath.Join(h.dir, h.unit(name))}
	if s.wanted, err = h.exists(filepath.Join(h.dirs.config, name+".yaml")); err != nil {
		return s, err
	}
	var writes []string
	if name == "server" && s.wanted {
		if writes, err = h.serverWrites(); err != nil {
			return s, err
		}
	}
	if s.text, err = h.text(name, h.places, writes); err != nil {
		return s, err
	}
	s.text = marked(s.text)
	if base := h.bases["StateDirectory"]; base != "" && !below(h.dirs.state, base) {
		writes = append(writes, h.dirs.state)
	}
	for _, dir := range writes {
		there, err := h.exists(dir)
		if err != nil {
			return s, err
		}
		if !there && h.bases != nil {
			s.absent = append(s.absent, dir)
		}
	}
	b, err := os.ReadFile(h.at(s.path))
	if err == nil {
		s.found, s.same = originOf(string(b)), string(b) == s.text
		if found := h.binary.FindSubmatch(b); found != nil {
			s.binary = string(found[1])
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if h.root != "" {
		s.state.enabled, err = h.exists(h.atBoot(s.unit).Path)
		return s, err
	}
	if s.state, err = h.look(ctx, h.run, s.unit); err != nil {
		return s, failed(fmt.Sprintf(`see that %s runs here; without it start "meshvpc agent" and "meshvpc server" your own way, and --root DIR only writes files`, h.name),
			"ask %s: %w", h.name, err)
	}
	return s, nil
}

// serverWrites are the directories outside the usual ones that the server's
// configuration has it write to.
func (h serviceHost) serverWrites() ([]string, error) {
	var cfg serverConfig
	if err := readConfig(h.at(h.dirs.server()), &cfg); err != nil {
		return nil, err
	}
	dirs := []string{cfg.DataDir}
	for _, file := range []string{cfg.TLS.CA, cfg.TLS.Cert, cfg.TLS.Key, cfg.TLS.CAKey} {
		dirs = append(dirs, filepath.Dir(file))
	}
	dirs = slices.DeleteFunc(dirs, func(d string) bool {
		return !filepath.IsAbs(d) || d == h.dirs.config || d == h.dirs.state || below(d, h.dirs.config) || below(d, h.dirs.state)
	})
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	for _, d := range dirs {
		if !plainPath.MatchString(d) {
			return nil, failed("want a path of letters, digits and /._+@-", "read config %s: a unit cannot hold the path %q", h.dirs.server(), d)
		}
	}
	return dirs, nil
}

// choose keeps the services that are to be installed: those that the host has a
// configuration for; in a root, which may get it later, the one that --only names.
func (h serviceHost) choose(services []service) ([]service, error) {
	chosen := slices.DeleteFunc(slices.Clone(services), func(s service) bool { return !s.wanted && (h.root == "" || h.only == "") })
	if len(chosen) > 0 {
		return chosen, h.refuseHidden(chosen)
	}
	var files []string
	for _, s := range services {
		files = append(files, h.at(filepath.Join(h.dirs.config, s.name+".yaml")))
	}
	err := fmt.Errorf("install service: no %s: %w", strings.Join(files, " and no "), fs.ErrNotExist)
	if h.root != "" {
		return nil, &refusal{exitFailed, err, "say what hosts of this root will be: --only agent, then --only server if they are servers"}
	}
	return nil, notJoined(err)
}

// hidden are directories that a unit does not see as others do, or that lose
// their content.
var hidden = []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp"}

// refuseHidden refuses paths that a service would not find.
func (h serviceHost) refuseHidden(services []service) error {
	isHidden := func(path string) bool {
		return slices.ContainsFunc(hidden, func(dir string) bool { return below(path, dir) })
	}
	if isHidden(h.program) {
		return failed("copy it to "+h.usual.program+" and run it from there, or name one by --binary",
			"install service: %s is no place for a service's program", h.program)
	}
	if _, err := os.Stat(h.program); err != nil && h.root == "" {
		return failed("name the program by --binary", "install service: %w", err)
	}
	for _, s := range services {
		for _, dir := range []string{h.dirs.config, h.dirs.state} {
			if s.name == "server" && isHidden(dir) {
				return failed("set MESHVPC_CONFIG_DIR and MESHVPC_STATE_DIR to other places, or unset them", "install service: the server does not see %s", dir)
			}
		}
	}
	return nil
}
