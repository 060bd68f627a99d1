package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// systemKnownHosts is the file of OpenSSH for all users.
const systemKnownHosts = "/etc/ssh/ssh_known_hosts"

// hostKeys judges the key of one host: a known one passes, a changed or revoked
// one never does, an unknown one if it is pinned or a person says yes.
type hostKeys struct {
	file   string // where a yes is kept
	pin    string // SHA256:…; "" is none
	keep   bool   // write a yes down
	asker  asker  // nil: nobody to ask
	known  ssh.HostKeyCallback
	errOut func(format string, args ...any) // for warnings

	fingerprint string // of the key that passed
	refused     error  // why none did
}

// newHostKeys reads the files of known hosts that there are.
func newHostKeys(file, pin string, keep bool, ask asker, warn func(string, ...any)) (*hostKeys, error) {
	if pin != "" && (!strings.HasPrefix(pin, "SHA256:") || len(pin) != len("SHA256:")+43) {
		return nil, usage(`want SHA256: and 43 characters, as "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" prints it on that host`, "invalid --host-key %q", pin)
	}
	given := file != ""
	if !given {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, usage("name a file by --known-hosts", "find known_hosts: %w", err)
		}
		file = filepath.Join(home, ".ssh", "known_hosts")
	}
	var files []string
	for _, f := range []string{file, systemKnownHosts} {
		if _, err := os.Stat(f); err == nil {
			files = append(files, f)
		} else if !errors.Is(err, fs.ErrNotExist) || given && f == file && pin == "" && ask == nil {
			return nil, fmt.Errorf("read known hosts: %w", err)
		}
	}
	known, err := knownhosts.New(files...)
	if err != nil {
		return nil, failed("mend that file", "read known hosts: %w", err)
	}
	return &hostKeys{file: file, pin: pin, keep: keep, asker: ask, known: known, errOut: warn}, nil
}

// algorithms are those of the keys that are known of the host, so that a host
// with several is asked for one of them; then all others.
func (h *hostKeys) algorithms(address string) []string {
	var list []string
	var want *knownhosts.KeyError
	if errors.As(h.known(address, noAddress{address}, noKey{}), &want) {
		for _, k := range want.Want {
			list = append(list, algorithmsOf(k.Key.Type())...)
		}
	}
	for _, t := range []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA} {
		list = append(list, algorithmsOf(t)...)
	}
	var once []string
	for _, a := range list {
		if !slices.Contains(once, a) {
			once = append(once, a)
		}
	}
	return once
}

func algorithmsOf(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// noKey is nobody's key, noAddress the address of a host before it is dialled:
// with them known tells what it knows.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("this is no key") }

type noAddress struct{ address string }

func (noAddress) Network() string  { return "tcp" }
func (a noAddress) String() string { return a.address }

// check is the ssh.HostKeyCallback.
func (h *hostKeys) check(address string, remote net.Addr, key ssh.PublicKey) error {
	if h.refused = h.judge(address, remote, key); h.refused == nil {
		h.fingerprint = ssh.FingerprintSHA256(key)
	}
	return h.refused
}

func (h *hostKeys) judge(address string, remote net.Addr, key ssh.PublicKey) error {
	print := ssh.FingerprintSHA256(key)
	err := h.known(address, remote, key)
	var want *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &revoked):
		return failed("somebody has its private key: give the host a new one", "host %s: its key %s is revoked in %s", address, print, revoked.Revoked.Filename)
	case errors.As(err, &want) && len(want.Want) > 0:
		old := want.Want[0]
		return failed(fmt.Sprintf("if it was installed anew: ssh-keygen -R %s -f %s, then run it again", shellWord(knownhosts.Normalize(address)), old.Filename),
			"host %s: its key CHANGED: it shows %s, but line %d of %s has %s; somebody may be between you and it, nothing was sent",
			address, print, old.Line, old.Filename, ssh.FingerprintSHA256(old.Key))
	case h.pin != "" && print != h.pin:
		return failed("compare --host-key with what the host itself prints", "host %s: its key is %s %s, not %s", address, key.Type(), print, h.pin)
	case err == nil, h.pin != "" && errors.As(err, &want):
		return nil
	case !errors.As(err, &want):
		return fmt.Errorf("host %s: check its key: %w", address, err)
	}
	return h.ask(address, key, print)
}

// ask has a person decide about an unknown key.
func (h *hostKeys) ask(address string, key ssh.PublicKey, print string) error {
	line := knownhosts.Line([]string{address}, key)
	if h.asker == nil {
		return failed(fmt.Sprintf("if the host itself prints that fingerprint, give --host-key %s, or add to %s: %s", print, h.file, line),
			"host %s is unknown: its key is %s %s", address, key.Type(), print)
	}
	for prompt := fmt.Sprintf("host %s is unknown; its key is %s\n  %s\nis that what the host itself says (ssh-keygen -lf)? yes or no: ", address, key.Type(), print); ; prompt = "yes or no: " {
		answer, err := h.asker.line(prompt)
		if err != nil {
			return fmt.Errorf("ask about the key of %s: %w", address, err)
		}
		switch answer {
		case "yes":
			if !h.keep {
				return nil
			}
			if err := addLine(h.file, line); err != nil {
				h.errOut("the key of %s is not kept: %v", address, err)
			}
			return nil
		case "no", "":
			return failed("get the fingerprint from its provider or its console, and compare", "host %s: its key was not accepted", address)
		}
	}
}

// addLine appends a line to a file, which it makes if there is none.
func addLine(file, line string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
		line = "\n" + line
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
