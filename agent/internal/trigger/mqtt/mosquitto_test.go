package mqtt

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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
	waitFor(t, "mosquitto answers", func() bool { // it listens before it can be stopped by a signal
		c, err := net.Dial("tcp", m.addr)
		if err != nil {
			return false
		}
		defer c.Close()
		_, err = c.Write([]byte("\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"))
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 4))
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

// unheard hands b's broker a packet on a connection that is reset before it can answer.
func (m *mosquitto) unheard(t *testing.T, packet []byte, b *net.TCPConn) {
	t.Helper()
	waitFor(t, "mosquitto accepts", func() bool { return !m.backlog(t) })
	if err := m.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Error(err)
		return
	}
	waitFor(t, "mosquitto is stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
		return err != nil || strings.Contains(string(stat), ") T ")
	})
	_, err := b.Write(packet)
	if err := errors.Join(err, b.SetLinger(0), b.Close(), m.cmd.Process.Signal(syscall.SIGCONT)); err != nil {
		t.Error(err)
	}
}

// backlog reports whether connections wait to be accepted: proc_pid_net(5), where a listener's queue is theirs.
func (m *mosquitto) backlog(t *testing.T) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(m.addr)
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", n)) && f[3] == "0A" {
			return !strings.HasSuffix(f[4], ":00000000")
		}
	}
	t.Fatal("mosquitto does not listen")
	return true
}

// proxy stands between a client and its broker, and can cut the connection.
type proxy struct {
	net.Listener
	target   string
	conns    chan net.Conn
	swallow  swallow
	answered func(packet []byte) // is told of the broker's; nil: nobody is
}

// swallow is asked about each packet on its way to the broker; true: it is not passed on, and the connection is cut.
type swallow func(packet []byte, broker *net.TCPConn) bool

func startProxy(t *testing.T, target string, swallow swallow) *proxy {
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
		defer c.Close()
		for r := bufio.NewReader(b); ; {
			packet, err := shortPacket(r)
			if err != nil {
				return
			}
			if p.answered != nil {
				p.answered(packet)
			}
			if _, err := c.Write(packet); err != nil {
				return
			}
		}
	}()
	for r := bufio.NewReader(c); ; {
		packet, err := shortPacket(r)
		if err != nil || p.swallow(packet, b.(*net.TCPConn)) {
			return
		}
		if _, err := b.Write(packet); err != nil {
			return
		}
	}
}

// shortPacket reads a packet of up to 127 bytes behind its length.
func shortPacket(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(2)
	if err != nil {
		return nil, err
	}
	if head[1] > 127 {
		return nil, fmt.Errorf("packet of type %d is long", head[0]>>4)
	}
	packet := make([]byte, 2+int(head[1]))
	_, err = io.ReadFull(r, packet)
	return packet, err
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
