package mqtt

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mosquitto is a real outside broker that can be stopped and started again with its state.
type mosquitto struct {
	addr string
	dir  string
	cmd  *exec.Cmd
}

func startMosquitto(t *testing.T, extra ...string) *mosquitto {
	t.Helper()
	if _, err := mosquittoPath(); err != nil {
		t.Log("ABSENT: mosquitto (apt-get install mosquitto): the client is not tried against a broker that others wrote")
		t.Skip()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mosquitto{addr: l.Addr().String(), dir: t.TempDir()}
	l.Close()
	_, port, _ := net.SplitHostPort(m.addr)
	conf := append([]string{
		"listener " + port + " 127.0.0.1", "allow_anonymous true", "persistence true", "persistence_location " + m.dir + "/",
		"autosave_interval 1", "autosave_on_changes true",
	}, extra...)
	if os.Getuid() == 0 {
		conf = append(conf, "user root")
	}
	if err := os.WriteFile(filepath.Join(m.dir, "conf"), []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	t.Cleanup(m.stop)
	return m
}

// mosquittoPath: Debian puts it where users don't look.
func mosquittoPath() (string, error) {
	if p, err := exec.LookPath("mosquitto"); err == nil {
		return p, nil
	}
	return exec.LookPath("/usr/sbin/mosquitto")
}

func (m *mosquitto) start(t *testing.T) {
	t.Helper()
	path, err := mosquittoPath()
	if err != nil {
		t.Fatal(err)
	}
	m.cmd = exec.Command(path, "-c", filepath.Join(m.dir, "conf"))
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "mosquitto listens", func() bool {
		c, err := net.Dial("tcp", m.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (m *mosquitto) stop() {
	if m.cmd != nil {
		_ = m.cmd.Process.Signal(os.Interrupt)
		_ = m.cmd.Wait()
		m.cmd = nil
	}
}

// proxy stands between a client and its broker, and can cut the connection.
type proxy struct {
	net.Listener
	target string
	conns  chan net.Conn
	// swallow is asked about each packet to the broker, by its first byte; true: it is not passed on.
	swallow func(kind byte) bool
}

func startProxy(t *testing.T, target string, swallow func(kind byte) bool) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, target: target, conns: make(chan net.Conn, 100), swallow: swallow}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(c)
		}
	}()
	return p
}

func (p *proxy) pass(c net.Conn) {
	defer c.Close()
	b, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer b.Close()
	p.conns <- c
	go func() {
		_, _ = io.Copy(c, b)
		c.Close()
	}()
	r := bufio.NewReader(c)
	for {
		head, err := r.ReadByte()
		if err != nil {
			return
		}
		size, err := r.ReadByte() // these packets are short
		if err != nil || size > 127 {
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		if p.swallow(head >> 4) {
			return // and the connection is cut
		}
		if _, err := b.Write(append([]byte{head, size}, body...)); err != nil {
			return
		}
	}
}

// refuser answers CONNECT with yes and SUBSCRIBE with no.
func refuser(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		head, err := r.ReadByte()
		if err != nil {
			return
		}
		size, err := r.ReadByte()
		if err != nil {
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		switch head >> 4 {
		case 1:
			_, err = c.Write([]byte{0x20, 2, 0, 0})
		case 8:
			_, err = c.Write([]byte{0x90, 3, body[0], body[1], 0x80})
		}
		if err != nil {
			return
		}
	}
}
