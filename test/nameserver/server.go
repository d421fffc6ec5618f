package nameserver

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// messageMax is the longest query that is read.
const messageMax = 1500

// Service is one SRV record.
type Service struct {
	Name   string // "_etcd-server._tcp.example.test."
	Target string // "host.example.test."
	Port   uint16
}

// Zone is what a server knows. Names end with a dot. It is not changed while it is served.
type Zone struct {
	Services []Service
	Hosts    map[string]netip.Addr // IPv4
}

// Server answers queries by UDP until it is closed.
type Server struct {
	conn net.PacketConn
	zone *Zone
	done sync.WaitGroup
}

// Listen serves a zone at an address, whose port may be 0.
func Listen(addr string, z *Zone) (*Server, error) {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{conn: c, zone: z}
	s.done.Go(s.run)
	return s, nil
}

// Addr is where the server is.
func (s *Server) Addr() string { return s.conn.LocalAddr().String() }

// Close ends the server.
func (s *Server) Close() error {
	err := s.conn.Close()
	s.done.Wait()
	return err
}

func (s *Server) run() {
	buf := make([]byte, messageMax)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if answer, err := s.zone.answer(buf[:n]); err == nil {
			_, _ = s.conn.WriteTo(answer, from) // who hears nothing asks again
		}
	}
}

// answer is what one query is told.
func (z *Zone) answer(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	services, host, known := z.find(q.Name.String())
	head := dnsmessage.Header{ID: h.ID, Response: true, Authoritative: true}
	if !known {
		head.RCode = dnsmessage.RCodeNameError
	}
	m := dnsmessage.Message{Header: head, Questions: []dnsmessage.Question{q}}
	add := func(body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}, Body: body})
	}
	switch {
	case q.Type == dnsmessage.TypeSRV:
		for _, s := range services {
			target, err := dnsmessage.NewName(s.Target)
			if err != nil {
				return nil, err
			}
			add(&dnsmessage.SRVResource{Target: target, Port: s.Port})
		}
	case q.Type == dnsmessage.TypeA && host.Is4():
		add(&dnsmessage.AResource{A: host.As4()})
	}
	return m.Pack()
}

func (z *Zone) find(name string) (services []Service, host netip.Addr, known bool) {
	for _, s := range z.Services {
		if s.Name == name {
			services = append(services, s)
		}
	}
	host, known = z.Hosts[name]
	return services, host, known || len(services) > 0
}
