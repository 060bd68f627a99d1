package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]sshTarget{
		"root@gold-hoster-03":      {"root", "gold-hoster-03:22"},
		"gold-hoster-03:2222":      {"me", "gold-hoster-03:2222"},
		"2001:db8::7":              {"me", "[2001:db8::7]:22"},
		"root@[2001:db8::7]":       {"root", "[2001:db8::7]:22"},
		"root@[2001:db8::7]:2222":  {"root", "[2001:db8::7]:2222"},
		"me@corp.example@bastion1": {"me@corp.example", "bastion1:22"},
	} {
		if got, err := parseTarget(in, "me"); err != nil || got != want {
			t.Errorf("parseTarget(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "@host", "root@", "host:0", "host:ssh", "-oProxyCommand=x", "a\x1bb"} {
		if got, err := parseTarget(in, "me"); err == nil {
			t.Errorf("parseTarget(%q) = %v; want a refusal", in, got)
		}
	}
}

// tryLogin logs in and runs a command there.
func tryLogin(t *testing.T, s *sshServer, knownHosts, pin, identity string, keep bool, ask asker) error {
	t.Helper()
	target := sshTarget{"root", s.address}
	l, err := newLogin(target, identity, ask)
	if err != nil {
		return err
	}
	defer l.close()
	keys, err := newHostKeys(knownHosts, pin, keep, ask, t.Logf)
	if err != nil {
		return err
	}
	h, err := dialSSH(t.Context(), target, keys, l)
	if err != nil {
		return err
	}
	defer h.close()
	out, err := h.run(t.Context(), "cat; echo $0 >&2; exit 3", strings.NewReader("over there"))
	var ended *remoteError
	if !errors.As(err, &ended) || ended.status != 3 || out != "over there" {
		t.Errorf("run = %q, %v; want its output and exit 3", out, err)
	}
	return nil
}

// asks makes an asker of answers; none is nobody to ask.
func asks(answers ...string) (asker, *person) {
	if answers == nil {
		return nil, nil
	}
	p := &person{answers: answers}
	return p, p
}

func TestHostKey(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("HOME", t.TempDir())
	identity, public := keyFile(t, "")
	s := (&sshServer{client: public}).start(t)
	other, _ := newKey(t)
	own := s.key.PublicKey()
	print := ssh.FingerprintSHA256(own)
	for name, tt := range map[string]struct {
		known   []ssh.PublicKey
		pin     string
		answers []string
		err     string // "" lets in
		hint    string
		kept    bool
	}{
		"known":                             {known: []ssh.PublicKey{own}},
		"unknown, nobody to ask":            {err: "is unknown: its key is ssh-ed25519 " + print, hint: "--host-key " + print + ", or add to "},
		"unknown, yes":                      {answers: []string{"yes"}, kept: true},
		"unknown, no":                       {answers: []string{"no"}, err: "was not accepted"},
		"unknown, a word that is no answer": {answers: []string{"y", "yes"}, kept: true},
		"unknown, pinned":                   {pin: print},
		"unknown, another pinned":           {pin: ssh.FingerprintSHA256(other.PublicKey()), err: ", not SHA256:"},
		"changed":                           {known: []ssh.PublicKey{other.PublicKey()}, err: "its key CHANGED", hint: "ssh-keygen -R"},
		"changed, with somebody to ask":     {known: []ssh.PublicKey{other.PublicKey()}, answers: []string{"yes"}, err: "its key CHANGED"},
		"changed, and pinned":               {known: []ssh.PublicKey{other.PublicKey()}, pin: print, err: "its key CHANGED"},
		"no fingerprint":                    {pin: "MD5:00", err: `invalid --host-key "MD5:00"`},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			file := s.knows(tt.known...)
			ask, who := asks(tt.answers...)
			err := tryLogin(t, s, file, tt.pin, identity, true, ask)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("login: %v; want %q", err, tt.err)
			}
			if r, ok := errors.AsType[*refusal](err); tt.hint != "" && (!ok || !strings.Contains(r.do, tt.hint)) {
				t.Errorf("hint of %v; want %q", err, tt.hint)
			}
			text, readErr := os.ReadFile(file)
			if readErr != nil || strings.Contains(string(text), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(own)))) != (tt.kept || name == "known") {
				t.Errorf("known hosts afterwards: %q, %v; want it kept: %v", text, readErr, tt.kept)
			}
			if who != nil && strings.HasPrefix(name, "unknown") && !strings.Contains(who.asked[0], print) {
				t.Errorf("asked %q, without the fingerprint", who.asked)
			}
			if tt.kept {
				if err := tryLogin(t, s, file, "", identity, true, nil); err != nil {
					t.Errorf("a second login: %v; want the kept key to do", err)
				}
			}
		})
	}
}

func TestLogin(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("HOME", t.TempDir())
	plain, plainKey := keyFile(t, "")
	locked, lockedPublic := keyFile(t, "open sesame")
	for name, tt := range map[string]struct {
		client   ssh.PublicKey
		identity string
		password string
		answers  []string
		err      string
		tries    int
		left     int // answers that nobody asked for
	}{
		"key":                                  {client: plainKey, identity: plain},
		"another key":                          {client: lockedPublic, identity: plain, err: "unable to authenticate"},
		"locked key":                           {client: lockedPublic, identity: locked, answers: []string{"open sesame"}},
		"locked key, wrong passphrase":         {client: lockedPublic, identity: locked, answers: []string{"close"}, err: "the passphrase is wrong"},
		"locked key, nobody to ask":            {client: lockedPublic, identity: locked, err: "no terminal to ask for its passphrase"},
		"locked key that is not wanted":        {client: plainKey, identity: locked, password: "pw", answers: []string{"pw"}, tries: 1},
		"no key, password":                     {password: "correct horse", answers: []string{"correct horse"}, tries: 1},
		"wrong password, asked once":           {password: "correct horse", answers: []string{"battery", "correct horse"}, err: "unable to authenticate", tries: 1, left: 1},
		"password, nobody to ask":              {password: "correct horse", err: "unable to authenticate"},
		"key file that is none":                {identity: "/dev/null", err: "read key /dev/null"},
		"key file that is not there":           {identity: "/nowhere/id", err: "read key: open /nowhere/id"},
		"a password is not asked with the key": {client: plainKey, identity: plain, password: "pw", answers: []string{"pw"}, left: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := (&sshServer{client: tt.client, password: tt.password}).start(t)
			ask, who := asks(tt.answers...)
			err := tryLogin(t, s, s.knows(s.key.PublicKey()), "", tt.identity, true, ask)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("login: %v; want %q", err, tt.err)
			}
			if s.tries != tt.tries {
				t.Errorf("%d passwords were tried, want %d", s.tries, tt.tries)
			}
			if who != nil && len(who.answers) != tt.left {
				t.Errorf("asked %q; want %d answers left", who.asked, tt.left)
			}
			for _, answer := range tt.answers {
				if err != nil && strings.Contains(err.Error(), answer) {
					t.Errorf("%q is in %v", answer, err)
				}
			}
		})
	}
}
