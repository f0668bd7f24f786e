// Package fleet is the fleet server: broker, database, content and HTTP API in one process. New opens everything and
// listens; Run serves until its context ends.
package fleet

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"dunlin.dev/dunlin/fleet/internal/api"
	"dunlin.dev/dunlin/fleet/internal/broker"
	"dunlin.dev/dunlin/fleet/internal/content"
	"dunlin.dev/dunlin/fleet/internal/devices"
	"dunlin.dev/dunlin/fleet/internal/registry"
	"dunlin.dev/dunlin/fleet/internal/requests"
	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/wire"
)

// Config of a Server. The zero value of a field is its default.
type Config struct {
	Data       string        // folder for everything; made with mode 0700
	HTTP       string        // address of the API, "127.0.0.1:8090"
	MQTT       string        // address of the broker, ":1883"
	MaxDevices int           // 10,000
	MaxUplinks int           // uplink messages that are kept, 10,000
	Patience   time.Duration // how long a board may take to answer a request, 15 s
	Version    string
	Log        *slog.Logger
	Now        func() time.Time
}

// Server is a fleet server that listens.
type Server struct {
	cfg      Config
	join     [32]byte // digest of the join token
	ctx      context.Context
	stop     context.CancelFunc
	store    *store.Store
	blobs    *content.Blobs
	content  *content.Server
	registry *registry.Registry
	devices  *devices.Devices
	requests *requests.Requests
	broker   *broker.Broker
	http     *http.Server
	httpL    net.Listener
	mqttL    net.Listener
	noise    limiter
}

// New opens or makes everything under cfg.Data and opens both addresses. On an error nothing stays open.
func New(cfg Config) (_ *Server, err error) {
	defaults(&cfg)
	s := &Server{cfg: cfg}
	s.ctx, s.stop = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			s.stop()
			s.release()
		}
	}()
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	admin, err := secret(filepath.Join(cfg.Data, AdminTokenFile))
	if err != nil {
		return nil, err
	}
	join, err := secret(filepath.Join(cfg.Data, JoinTokenFile))
	if err != nil {
		return nil, err
	}
	s.join = sha256.Sum256([]byte(join))
	if s.store, err = store.Open(filepath.Join(cfg.Data, "fleet.db")); err != nil {
		return nil, err
	}
	if s.blobs, err = content.OpenBlobs(cfg.Data); err != nil {
		return nil, err
	}
	if s.registry, err = registry.Open(s.store, s.blobs, cfg.Now, cfg.Log); err != nil {
		return nil, err
	}
	s.devices, err = devices.Open(devices.Config{
		Store: s.store, Director: s.registry.Director(), Now: cfg.Now, Log: cfg.Log, MaxDevices: cfg.MaxDevices,
		Publish: func(device string, envelope []byte) error {
			return s.broker.Retain(device, wire.ChannelDesired, envelope)
		},
	})
	if err != nil {
		return nil, err
	}
	s.content, err = content.NewServer(s.ctx, cfg.Data, s.store, s.blobs, func(ctx context.Context, device string, frame []byte) error {
		return s.broker.Send(ctx, device, wire.ChannelBlock, frame)
	}, cfg.Log)
	if err != nil {
		return nil, err
	}
	s.requests = requests.New(requests.Config{
		Fleet: s.registry.Fleet, Director: s.registry.Director(), Now: cfg.Now, Patience: cfg.Patience,
		Reach: func(device string) (requests.Session, error) {
			h, err := s.devices.Present(device)
			return requests.Session{ID: h.Session, Agent: h.Agent, Operations: h.Operations}, err
		},
		Send: func(device string, envelope []byte) error { return s.broker.Publish(device, wire.ChannelDo, envelope) },
	})
	if err := s.listen(); err != nil {
		return nil, err
	}
	if s.broker, err = broker.New(broker.Config{Listener: s.mqttL, Handler: (*boards)(s), Log: cfg.Log}); err != nil {
		return nil, err
	}
	s.http = &http.Server{
		Handler: api.New(api.Config{
			Token: admin, Version: cfg.Version, Registry: s.registry, Devices: s.devices, Blobs: s.blobs, Store: s.store, Requests: s.requests,
			Founded: s.devices.SetFleet, Health: s.Health, Log: cfg.Log,
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	s.devices.SetFleet(s.registry.Fleet())
	// The broker keeps nothing over a restart: what boards should run comes from the store.
	if s.registry.Fleet() != "" {
		for device, envelope := range s.devices.Envelopes() {
			if err := s.broker.Retain(device, wire.ChannelDesired, envelope); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

func defaults(c *Config) {
	if c.HTTP == "" {
		c.HTTP = "127.0.0.1:8090"
	}
	if c.MQTT == "" {
		c.MQTT = ":1883"
	}
	if c.MaxUplinks == 0 {
		c.MaxUplinks = 10_000
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Version == "" {
		c.Version = "devel"
	}
}

func (s *Server) listen() (err error) {
	if s.httpL, err = net.Listen("tcp", s.cfg.HTTP); err != nil {
		return fmt.Errorf("listen for http: %w", err)
	}
	if s.mqttL, err = net.Listen("tcp", s.cfg.MQTT); err != nil {
		return fmt.Errorf("listen for mqtt: %w", err)
	}
	return nil
}

// HTTP is the API's address, "127.0.0.1:8090".
func (s *Server) HTTP() string { return s.httpL.Addr().String() }

// MQTT is the broker's address.
func (s *Server) MQTT() string { return s.mqttL.Addr().String() }

// Fleet is the fleet's name, empty before its first root.
func (s *Server) Fleet() string { return s.registry.Fleet() }

// Health is nil when the server can do its work now: the device table isn't locked up, and the database answers.
func (s *Server) Health() error {
	s.devices.Online()
	return s.store.Ping()
}

// Run serves until ctx ends, then closes everything: requests in flight get shutdown's time, connections of boards none. It
// calls ready when boards and people are let in. Call it once.
func (s *Server) Run(ctx context.Context, shutdown time.Duration, ready func()) error {
	defer s.release()
	if err := s.broker.Serve(); err != nil {
		s.stop()
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(s.httpL) }()
	tasks := make(chan struct{})
	go func() {
		defer close(tasks)
		s.tasks()
	}()
	ready()
	var err error
	select {
	case err = <-failed:
		err = fmt.Errorf("serve http: %w", err)
	case <-ctx.Done():
	}
	s.cfg.Log.Info("stopping")
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdown)
	defer cancel()
	if serr := s.http.Shutdown(grace); serr != nil {
		serr = s.http.Close()
		err = errors.Join(err, serr)
	}
	s.stop()
	err = errors.Join(err, s.broker.Close())
	s.content.Wait()
	s.devices.Wait()
	<-tasks
	return errors.Join(err, s.devices.Flush())
}

// release closes what New opened; what Run has closed already doesn't mind.
func (s *Server) release() {
	s.stop()
	for _, l := range []net.Listener{s.httpL, s.mqttL} {
		if l != nil {
			l.Close()
		}
	}
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.cfg.Log.Error("close database", "error", err)
		}
	}
}

// How often the background work comes round.
const (
	flushEvery  = time.Second
	uploadsKept = 48 * time.Hour
)

// tasks is all that the server does by the clock.
func (s *Server) tasks() {
	flush := time.NewTicker(flushEvery)
	defer flush.Stop()
	var renew, sweep time.Time
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-flush.C:
		}
		if err := s.devices.Flush(); err != nil {
			s.cfg.Log.Error("flush devices", "error", err)
		}
		now := s.cfg.Now()
		if !now.Before(renew) {
			next, err := s.registry.Renew()
			if err != nil {
				s.cfg.Log.Error("renew metadata", "error", err)
				next = now.Add(time.Minute)
			}
			renew = next
		}
		if !now.Before(sweep) {
			sweep = now.Add(time.Hour)
			if err := s.blobs.DropUploads(now.Add(-uploadsKept)); err != nil {
				s.cfg.Log.Error("drop uploads", "error", err)
			}
		}
	}
}
