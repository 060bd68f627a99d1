package integration

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// openSSH makes a lab's host one as a provider hands it over, with OpenSSH's server,
// sudo, and people: ann has sudo with her password, bob without, eve has none. All
// that it writes goes with the host. $1 is a directory with client.pub and systemctl.
const openSSH = `set -eu
umask 022
mount -t tmpfs tmpfs /mnt
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
for d in /usr/local/bin /home; do mount -t tmpfs -o mode=755 tmpfs $d; done
mkdir -p /run/sshd /run/systemd/system /etc/ssh/keys
rm -f /etc/ssh/ssh_host_* /etc/sudoers.d/*
ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
echo "127.0.0.1 $(uname -n)" >>/etc/hosts
for u in root ann bob eve; do
	[ $u = root ] || useradd -m -s /bin/sh $u
	[ $u = root ] || echo $u:$u-secret | chpasswd
	install -m 644 $1/client.pub /etc/ssh/keys/$u
done
printf 'ann ALL=(ALL) ALL\nbob ALL=(ALL) NOPASSWD: ALL\n' >/etc/sudoers.d/people
chmod 440 /etc/sudoers.d/people
cp $1/systemctl /usr/local/bin/systemctl
cat >/etc/ssh/sshd_config <<END
ListenAddress ::
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/keys/%u
PasswordAuthentication yes
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
PidFile none
END
exec /usr/sbin/sshd -D -e
`

// systemdEnough is what of systemctl node add and service install need.
const systemdEnough = `#!/bin/sh
case $1 in
show) echo ActiveState=inactive; echo SubState=dead; echo UnitFileState=;;
start) setsid $(sed -n 's/^ExecStart=//p' /etc/systemd/system/$2) >/run/agent.log 2>&1 </dev/null & ;;
esac
`

// newTerminal is a terminal on which all that is to be typed was typed already.
func newTerminal(t *testing.T, typed string) *os.File {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keys.Close() })
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	read, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close() })
	if _, err := keys.WriteString(typed); err != nil {
		t.Fatal(err)
	}
	return read
}

// provider starts a host with OpenSSH and people on it; their key is client in dir.
func (m *mesh) provider(ctx context.Context, host string) (dir string) {
	m.t.Helper()
	dir = m.t.TempDir()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	m.must(err)
	block, err := ssh.MarshalPrivateKey(private, "")
	m.must(err)
	public, err := ssh.NewPublicKey(private.Public())
	m.must(err)
	for name, text := range map[string][]byte{"client": pem.EncodeToMemory(block), "client.pub": ssh.MarshalAuthorizedKey(public), "systemctl": []byte(systemdEnough)} {
		m.must(os.WriteFile(filepath.Join(dir, name), text, 0o700))
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var words bytes.Buffer
		code, err := m.Lab.Exec(ctx, lab.Command{Host: host, Stderr: &words, // without the lab's environment: as the host's own
			Argv: []string{"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", openSSH, "sh", dir}})
		if ctx.Err() == nil {
			m.t.Errorf("sshd on %s: exit %d, %v: %s", host, code, err, &words)
		}
	}()
	m.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return dir
}

// TestNodeAddOpenSSH adds a host on which OpenSSH's own server and sudo run, by an
// ordinary user who types passwords, after others were refused.
func TestNodeAddOpenSSH(t *testing.T) {
	once(t)
	if os.Geteuid() != 0 {
		t.Skip("sudo and sshd need a root that is the machine's")
	}
	for _, program := range []string{"/usr/sbin/sshd", "ssh-keygen", "sudo", "useradd", "chpasswd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("OpenSSH's server and sudo are not installed here: %v", err)
		}
	}
	m := newNodes(t, lab.IPv6)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	h, err := m.Lab.AddHost(ctx, lab.HostConfig{Name: "friends-home", Datacenter: "home"})
	m.must(err)
	dir := m.provider(ctx, h.Name)
	identity, known := []string{"--identity", filepath.Join(dir, "client")}, filepath.Join(dir, "known_hosts")
	m.must(os.WriteFile(known, nil, 0o600))
	add := func(user, typed string, more ...string) (code int, out, words string) {
		t.Helper()
		var o, w bytes.Buffer
		cmd := lab.Command{Host: m.Server, Stdout: &o, Stderr: &w, Env: append(os.Environ(), "HOME="+dir, "SSH_AUTH_SOCK="),
			Argv: append([]string{"meshvpc", "node", "add", user + "@" + h.Underlay[0].Addr().String(), "--datacenter", "home", "--known-hosts", known}, more...)}
		if typed != "" {
			cmd.Stdin = newTerminal(t, typed)
		}
		code, err := m.Lab.Exec(ctx, cmd)
		m.must(err)
		for _, secret := range []string{"-secret", "mv1-"} {
			if strings.Contains(o.String()+w.String(), secret) {
				t.Errorf("%s: a secret is in what it prints: %s%s", user, &o, &w)
			}
		}
		return code, o.String(), w.String()
	}
	m.must(m.Until(ctx, func() error { // sshd starts meanwhile
		if code, _, words := add("root", "yes\n", append(identity, "--dry-run")...); code != 0 {
			return fmt.Errorf("root: exit %d: %s", code, words)
		}
		return nil
	}))
	for name, tt := range map[string]struct {
		user, typed string
		flags       []string
		want        string
	}{
		"unknown host, nobody to ask": {user: "root", flags: identity, want: "is unknown: its key is ssh-ed25519 SHA256:"},
		"the key is not accepted":     {user: "root", typed: "no\n", flags: identity, want: "its key was not accepted"},
		"wrong password":              {user: "ann", typed: "yes\nwrong\n", want: "unable to authenticate"},
		"root has no password":        {user: "root", typed: "yes\nroot-secret\n", want: "unable to authenticate"},
		"wrong password of sudo":      {user: "ann", typed: "yes\nwrong\n", flags: identity, want: "sudo there refuses: exit 1: Sorry, try again."},
		"sudo, nobody to ask":         {user: "ann", flags: append(identity, "--host-key", m.hostKey(ctx, h.Name)), want: "sudo there needs a password"},
		"no sudo":                     {user: "eve", typed: "yes\neve-secret\n", flags: identity, want: "eve is not in the sudoers file"},
	} {
		if code, out, words := add(tt.user, tt.typed, append(tt.flags, "--dry-run")...); code != 1 || !strings.Contains(words, tt.want) {
			t.Errorf("%s: exit %d: %s%s; want %q", name, code, out, words, tt.want)
		}
	}
	if text, err := os.ReadFile(known); err != nil || len(text) > 0 {
		t.Errorf("dry runs have written down keys: %q, %v", text, err)
	}
	if code, out, words := add("bob", "yes\n", append(identity, "--dry-run")...); code != 0 || !strings.Contains(out, "nothing was done on bob@") {
		t.Errorf("sudo without a password: exit %d: %s%s", code, out, words)
	}
	code, out, words := add("ann", "yes\nann-secret\nann-secret\n")
	if code != 0 || !strings.Contains(out, "node friends-home in datacenter home is live") {
		t.Fatalf("by passwords: exit %d: %s%s", code, out, words)
	}
	m.must(m.AwaitNodes(ctx, 4))
	if code, out, words = add("bob", "", identity...); code != 1 || !strings.Contains(words, "is node friends-home already, and live") {
		t.Errorf("again: exit %d: %s%s", code, out, words)
	}
}

// hostKey is what the host itself prints.
func (m *mesh) hostKey(ctx context.Context, host string) string {
	m.t.Helper()
	var out bytes.Buffer
	code, err := m.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{"ssh-keygen", "-lf", "/etc/ssh/ssh_host_ed25519_key.pub"}, Stdout: &out})
	m.must(err)
	words := strings.Fields(out.String())
	if code != 0 || len(words) < 2 {
		m.t.Fatalf("ssh-keygen: exit %d: %s", code, &out)
	}
	return words[1]
}
