package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is a network of its own: loopback, and one interface whose packets are read and written here.
type namespace struct {
	tun  *os.File
	fd   int         // of the network, to enter it
	home chan func() // to the thread that lives in it
}

// newNamespace makes one, with an address in 10.77.0.0/24. A device file is made in dir where the machine has none.
func newNamespace(dir string, addr string) (*namespace, error) {
	n := &namespace{home: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and what it started ends with the thread
		err := n.open(dir, addr)
		made <- err
		if err != nil {
			return
		}
		for f := range n.home {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return n, nil
}

func (n *namespace) open(dir, addr string) (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if n.tun, err = openTUN(dir); err != nil {
		return err
	}
	return errors.Join(up("lo", ""), up("tun", addr))
}

// openTUN makes the interface "tun" where the thread is: tuntap.rst.
func openTUN(dir string) (*os.File, error) {
	device := "/dev/net/tun"
	if _, err := os.Stat(device); errors.Is(err, os.ErrNotExist) {
		device = filepath.Join(dir, "tun")
		if err := unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("make tun device: %w", err)
		}
	}
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", device, err)
	}
	req, err := unix.NewIfreq("tun")
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, errors.Join(fmt.Errorf("make interface: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), device), nil
}

// up gives an interface its address, if any, and turns it on: netdevice(7).
func up(name, addr string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if addr != "" {
		for _, set := range []struct {
			request uint
			ip      net.IP
		}{{unix.SIOCSIFADDR, net.ParseIP(addr)}, {unix.SIOCSIFNETMASK, net.IPv4(255, 255, 255, 0)}} {
			if err := req.SetInet4Addr(set.ip.To4()); err != nil {
				return err
			}
			if err := unix.IoctlIfreq(s, set.request, req); err != nil {
				return fmt.Errorf("set address of %s: %w", name, err)
			}
		}
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("turn %s on: %w", name, err)
	}
	return nil
}

// do runs f in the namespace. What f starts ends with the namespace.
func (n *namespace) do(f func()) {
	done := make(chan struct{})
	n.home <- func() { defer close(done); f() }
	<-done
}

// dial gives a connection from within the namespace.
func (n *namespace) dial(ctx context.Context, addr string) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() { // on a thread for itself: a dial may take long
		defer close(done)
		runtime.LockOSThread()
		if err = unix.Setns(n.fd, unix.CLONE_NEWNET); err == nil {
			c, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}()
	<-done
	return c, err
}

func (n *namespace) close() error {
	close(n.home)
	return errors.Join(n.tun.Close(), unix.Close(n.fd))
}
