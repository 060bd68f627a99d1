package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// login is how one proves who one is: keys of the SSH agent and of files, then a
// password, asked for once. A key that needs a passphrase asks for it once, and
// only if the host wants that key.
type login struct {
	target sshTarget
	asker  asker // nil: nobody to ask
	keys   []ssh.Signer
	notes  []string // keys that cannot be used, and why
	asked  bool     // for the password
	failed error    // why it cannot go on
	conn   net.Conn // to the agent
}

// usualKeys are the files in ~/.ssh that are tried.
var usualKeys = []string{"id_ed25519", "id_ecdsa", "id_rsa"}

// newLogin finds the keys: the one in the file identity alone, else those of the
// agent and the usual ones.
func newLogin(t sshTarget, identity string, ask asker) (*login, error) {
	l := &login{target: t, asker: ask}
	ofAgent := l.agentKeys()
	if identity != "" {
		return l, l.addFile(identity, ofAgent, true)
	}
	l.keys = ofAgent
	home, err := os.UserHomeDir()
	if err != nil {
		return l, nil // no home, no keys there
	}
	for _, name := range usualKeys {
		if err := l.addFile(filepath.Join(home, ".ssh", name), ofAgent, false); err != nil {
			l.notes = append(l.notes, err.Error())
		}
	}
	return l, nil
}

// agentKeys are those of $SSH_AUTH_SOCK.
func (l *login) agentKeys() []ssh.Signer {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil
	}
	conn, err := net.Dial("unix", socket)
	if err == nil {
		l.conn = conn
		var keys []ssh.Signer
		if keys, err = agent.NewClient(conn).Signers(); err == nil {
			return keys
		}
	}
	l.notes = append(l.notes, fmt.Sprintf("the SSH agent does not answer: %v", err))
	return nil
}

func (l *login) close() {
	if l.conn != nil {
		l.conn.Close()
	}
}

// addFile adds the key in a file; one that must be there is an error otherwise.
func (l *login) addFile(file string, ofAgent []ssh.Signer, must bool) error {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !must {
		return nil
	}
	if err != nil {
		return failed("name the file of a private key by --identity", "read key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if err == nil {
		l.keys = append(l.keys, key)
		return nil
	}
	missing, encrypted := errors.AsType[*ssh.PassphraseMissingError](err)
	if !encrypted {
		return failed("name the file of a private key by --identity", "read key %s: %w", file, err)
	}
	public := missing.PublicKey
	if public == nil {
		if public = publicOf(file); public == nil {
			return failed("write it in OpenSSH's format: ssh-keygen -p -f "+file, "read key %s: it is encrypted, and there is no %s.pub", file, file)
		}
	}
	for _, k := range ofAgent {
		if string(k.PublicKey().Marshal()) == string(public.Marshal()) {
			if must {
				l.keys = append(l.keys, k)
			}
			return nil
		}
	}
	if l.asker == nil {
		return failed("ssh-add "+file+" to an agent, or run it on a terminal", "read key %s: it is encrypted, and there is no terminal to ask for its passphrase", file)
	}
	l.keys = append(l.keys, &lockedKey{file: file, text: text, public: public, login: l})
	return nil
}

func publicOf(file string) ssh.PublicKey {
	text, err := os.ReadFile(file + ".pub")
	if err != nil {
		return nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil
	}
	return key
}

// lockedKey is an encrypted key, which is opened when it is first used.
type lockedKey struct {
	file   string
	text   []byte
	public ssh.PublicKey
	login  *login
}

func (k *lockedKey) PublicKey() ssh.PublicKey { return k.public }

func (k *lockedKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

// SignWithAlgorithm makes it an ssh.AlgorithmSigner, which RSA needs.
func (k *lockedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	passphrase, err := k.login.asker.secret(fmt.Sprintf("passphrase of %s: ", k.file))
	if err != nil {
		k.login.failed = err
		return nil, err
	}
	key, err := ssh.ParsePrivateKeyWithPassphrase(k.text, passphrase)
	if err != nil {
		k.login.failed = failed("run it again", "open key %s: the passphrase is wrong, or the file is damaged", k.file)
		return nil, k.login.failed
	}
	if s, ok := key.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(rand, data, algorithm)
	}
	return key.Sign(rand, data)
}

// methods are the ways to log in, in their order.
func (l *login) methods() []ssh.AuthMethod {
	list := []ssh.AuthMethod{ssh.PublicKeys(l.keys...)}
	if l.asker != nil {
		list = append(list, ssh.KeyboardInteractive(l.answer), ssh.PasswordCallback(l.password))
	}
	return list
}

// password asks for it, once: a host that did not take it as an answer does not
// take it as a password.
func (l *login) password() (string, error) {
	if l.asked {
		return "", l.wrong()
	}
	l.asked = true
	b, err := l.asker.secret(fmt.Sprintf("password of %s: ", l.target))
	return string(b), err
}

func (l *login) wrong() error {
	l.failed = failed("see that the user and the password are right, and that sshd there lets that user in", "log in to %s: the password was refused", l.target)
	return l.failed
}

// answer answers what a host asks, such as a password or a code.
func (l *login) answer(_, instruction string, questions []string, echos []bool) ([]string, error) {
	if len(questions) == 0 {
		return nil, nil
	}
	if l.asked {
		return nil, l.wrong()
	}
	l.asked = true
	answers := make([]string, len(questions))
	for i, q := range questions {
		prompt := strings.TrimSpace(clean(instruction)+" "+clean(q)) + " "
		if strings.EqualFold(strings.Trim(q, ": "), "password") {
			prompt = fmt.Sprintf("password of %s: ", l.target)
		}
		ask := func() (string, error) { b, err := l.asker.secret(prompt); return string(b), err }
		if echos[i] {
			ask = func() (string, error) { return l.asker.line(prompt) }
		}
		var err error
		if answers[i], err = ask(); err != nil {
			l.failed = err
			return nil, err
		}
	}
	return answers, nil
}

// hint is what to do when nothing was good enough.
func (l *login) hint() string {
	do := "put a key of yours there (ssh-copy-id " + l.target.user + "@…), name one by --identity, or run it on a terminal, which can be asked for a password"
	if l.asker != nil {
		do = "see that the user and the password or key are right, and that sshd there lets that user in"
	}
	if len(l.notes) > 0 {
		do += "; " + strings.Join(l.notes, "; ")
	}
	return do
}
