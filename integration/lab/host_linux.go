package lab

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// host is the init of one host: all that happens there is done by it.
type host struct {
	cfg       hostConfig
	children  *reaper
	namespace *os.File // the host's network namespace
	handlers  map[string]handler

	mu        sync.Mutex
	services  map[string]*service
	workloads []Workload
}

// runHost is the main of a host's init. It ends with the supervisor.
func runHost() error {
	c, err := control()
	if err != nil {
		return err
	}
	m, _, err := c.receive()
	if err != nil {
		return fmt.Errorf("receive configuration: %w", err)
	}
	h := &host{children: newReaper(), services: map[string]*service{}}
	if err := m.decode(&h.cfg); err != nil {
		return err
	}
	h.handlers = map[string]handler{
		opSetUnderlay:    handle(h.setUnderlay),
		opHostStatus:     handle(h.status),
		opStart:          handle(h.startServices),
		opKill:           handle(h.killServices),
		opFreeze:         handle(h.freezeServices),
		opThaw:           handle(h.thawServices),
		opAddWorkload:    handle(h.addWorkload),
		opRemoveWorkload: handle(h.removeWorkload),
		opExec:           h.exec,
		opPing:           stream(h.ping),
		opSendFrames:     handle(h.sendFrames),
		opSendUDP:        handle(h.sendUDP),
		opSniff:          stream(h.sniff),
	}
	if err := h.setUp(); err != nil {
		return c.send(answer(nil, err))
	}
	if err := c.send(message{}, h.namespace); err != nil {
		return err
	}
	for {
		m, files, err := c.receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive command: %w", err)
		}
		go h.dispatch(m, files) // ends with its call, at the latest with the process
	}
}

// dispatch serves one call; its connection is the first of the files.
func (h *host) dispatch(m message, files []*os.File) {
	if len(files) == 0 {
		fmt.Fprintf(os.Stderr, "serve %s: no connection came with it\n", m.Op)
		return
	}
	conn, err := connFrom(files[0])
	if err != nil {
		closeAll(files[1:])
		fmt.Fprintf(os.Stderr, "serve %s: %v\n", m.Op, err)
		return
	}
	c := &call{message: m, conn: conn, files: files[1:]}
	serve := h.handlers[m.Op]
	if serve == nil {
		serve = func(*call) (any, error) { return nil, fmt.Errorf("serve %q: no such operation", m.Op) }
	}
	c.serve(serve)
}

// setUp makes the host out of the namespaces that it was born in.
func (h *host) setUp() error {
	if err := privateMounts(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs on /run: %w: %w: %s", err, ErrRefused, unprivilegedHint)
	}
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "") // only for those who look at /sys/class/net
	if err := unix.Sethostname([]byte(h.cfg.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", netnsDir, err)
	}
	if err := quietIPv6(); err != nil {
		return err
	}
	var err error
	if h.namespace, err = currentNetns(); err != nil {
		return err
	}
	return up("lo")
}

// setUnderlay gives u0 exactly these addresses, and routes by the router.
func (h *host) setUnderlay(e ends) (any, error) {
	l, err := netlink.LinkByName(UnderlayDevice)
	if err != nil {
		return nil, fmt.Errorf("find underlay device: %w", err)
	}
	old, err := addressesOf(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list underlay addresses: %w", err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return nil, fmt.Errorf("set device %s up: %w", UnderlayDevice, err)
	}
	device := l.Attrs().Index
	for i, p := range e.Host {
		if err := addAddress(device, p); err != nil {
			return nil, err
		}
		route := &netlink.Route{LinkIndex: device, Gw: e.Router[i].Addr().AsSlice()}
		if err := netlink.RouteReplace(route); err != nil {
			return nil, fmt.Errorf("route by %s: %w", e.Router[i].Addr(), err)
		}
	}
	for _, a := range old {
		addr, _ := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if p := netip.PrefixFrom(addr.Unmap(), ones); !p.Addr().IsLinkLocalUnicast() {
			if err := removeAddress(device, p); err != nil {
				return nil, err
			}
		}
	}
	return nil, ready(device)
}

func (h *host) status(struct{}) (any, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := Host{Workloads: h.workloads}
	for _, s := range h.services {
		st.Services = append(st.Services, s.state())
	}
	return st, nil
}

// environment is base with the variables that say where the host's things are.
func (h *host) environment(base []string) []string {
	d := diskOf(h.cfg.Dir, h.cfg.Name)
	ours := map[string]string{
		"MESHVPC_LAB":        h.cfg.Lab,
		"MESHVPC_LAB_HOST":   h.cfg.Name,
		"MESHVPC_CONFIG_DIR": d.Etc,
		"MESHVPC_STATE_DIR":  d.Var,
		"MESHVPC_RUN_DIR":    d.Run,
		"MESHVPC_CONFIG":     filepath.Join(d.Etc, "admin.yaml"),
	}
	var env []string
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, v := range base {
		key, value, _ := strings.Cut(v, "=")
		if _, is := ours[key]; is {
			continue
		}
		if key == "PATH" {
			path = value
			continue
		}
		env = append(env, v)
	}
	for key, value := range ours {
		env = append(env, key+"="+value)
	}
	return append(env, "PATH="+filepath.Join(h.cfg.Dir, "bin")+":"+path)
}

// lookPath finds a program by the PATH of env. A path is taken as it is.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, v := range env {
		path, is := strings.CutPrefix(v, "PATH=")
		if !is {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			file := filepath.Join(dir, name)
			info, err := os.Stat(file)
			if err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
				return file, nil
			}
		}
	}
	return "", fmt.Errorf("run %s: no such program in PATH: %w", name, ErrNotFound)
}
