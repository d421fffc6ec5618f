package etcdapi

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// metrics counts calls under the names that dashboards for etcd know. A nil *metrics counts
// nothing.
type metrics struct {
	started, handled, received, sent *prometheus.CounterVec
	seconds                          *prometheus.HistogramVec // nil unless extensive
	clients                          *prometheus.CounterVec
	bytesIn, bytesOut                prometheus.Counter

	methods sync.Map // full method -> *methodMetrics
	seen    versions
	latest  atomic.Pointer[clientCounter]
}

// clientVersionsMax bounds the versions that clients can have counted apart: each is a series for ever.
const clientVersionsMax = 64

// versions are those that clients have claimed.
type versions struct {
	mu  sync.Mutex
	set map[string]bool
}

// label is the version itself if it looks like one and there is room for it, else "unknown".
func (v *versions) label(version string) string {
	if len(version) > 12 || strings.Trim(version, "0123456789.") != "" {
		return "unknown"
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.set[version]:
	case len(v.set) >= clientVersionsMax:
		return "unknown"
	case v.set == nil:
		v.set = map[string]bool{version: true}
	default:
		v.set[version] = true
	}
	return version
}

// clientCounter is the counter of requests of one kind by clients of one version: nearly all are of the
// same as the one before.
type clientCounter struct {
	kind, version string
	count         prometheus.Counter
}

// methodMetrics are the counters of one method, looked up once.
type methodMetrics struct {
	kind, service, method   string
	started, received, sent prometheus.Counter
	handledOK               prometheus.Counter
	seconds                 prometheus.Observer
}

const (
	kindUnary        = "unary"
	kindClientStream = "client_stream"
	kindServerStream = "server_stream"
	kindBidiStream   = "bidi_stream"
)

func newMetrics(reg prometheus.Registerer, extensive bool) *metrics {
	if reg == nil {
		return nil
	}
	labels := []string{"grpc_type", "grpc_service", "grpc_method"}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		started:  counter("grpc_server_started_total", "RPCs timedCall on the server.", labels...),
		handled:  counter("grpc_server_handled_total", "RPCs finished on the server, by outcome.", append(labels, "grpc_code")...),
		received: counter("grpc_server_msg_received_total", "Messages received on the server.", labels...),
		sent:     counter("grpc_server_msg_sent_total", "Messages sent by the server.", labels...),
		clients:  counter("etcd_server_client_requests_total", "Client requests, by client API version.", "type", "client_api_version"),
		bytesIn: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_network_client_grpc_received_bytes_total", Help: "Bytes received from gRPC clients."}),
		bytesOut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_network_client_grpc_sent_bytes_total", Help: "Bytes sent to gRPC clients."}),
	}
	reg.MustRegister(m.started, m.handled, m.received, m.sent, m.clients, m.bytesIn, m.bytesOut)
	if extensive {
		m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds", Help: "Time from the start to the end of an RPC.", Buckets: prometheus.DefBuckets,
		}, labels)
		reg.MustRegister(m.seconds)
	}
	return m
}

// initialise makes every method of s show up with zeros, as in etcd with each code.
func (m *metrics) initialise(s *grpc.Server) {
	if m == nil {
		return
	}
	for service, info := range s.GetServiceInfo() {
		for _, method := range info.Methods {
			mm := m.method("/"+service+"/"+method.Name, streamKind(method.IsClientStream, method.IsServerStream))
			for code := codes.OK; code <= codes.Unauthenticated; code++ { // a rate of what is not there is no zero
				m.handled.WithLabelValues(mm.kind, mm.service, mm.method, code.String())
			}
		}
	}
}

func streamKind(client, server bool) string {
	switch {
	case client && server:
		return kindBidiStream
	case client:
		return kindClientStream
	case server:
		return kindServerStream
	default:
		return kindUnary
	}
}

func (m *metrics) method(full, kind string) *methodMetrics {
	if v, ok := m.methods.Load(full); ok {
		return v.(*methodMetrics)
	}
	service, method, ok := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	if !ok {
		service, method = "unknown", "unknown"
	}
	mm := &methodMetrics{
		kind: kind, service: service, method: method,
		started:  m.started.WithLabelValues(kind, service, method),
		received: m.received.WithLabelValues(kind, service, method),
		sent:     m.sent.WithLabelValues(kind, service, method),
	}
	mm.handledOK = m.handled.WithLabelValues(kind, service, method, codes.OK.String())
	if m.seconds != nil {
		mm.seconds = m.seconds.WithLabelValues(kind, service, method)
	}
	v, _ := m.methods.LoadOrStore(full, mm)
	return v.(*methodMetrics)
}

// timedCall is a call that has been counted as one that starts.
type timedCall struct {
	m     *metrics
	mm    *methodMetrics
	start time.Time // zero where nobody asks how long it takes
}

// begin counts a call that starts; end is to be called with its outcome.
func (m *metrics) begin(mm *methodMetrics) timedCall {
	b := timedCall{m: m, mm: mm}
	if mm.seconds != nil {
		b.start = time.Now()
	}
	mm.started.Inc()
	return b
}

func (b *timedCall) end(err error) {
	if err == nil {
		b.mm.handledOK.Inc()
	} else {
		b.m.handled.WithLabelValues(b.mm.kind, b.mm.service, b.mm.method, status.Code(err).String()).Inc()
	}
	if b.mm.seconds != nil {
		b.mm.seconds.Observe(time.Since(b.start).Seconds())
	}
}

func (m *metrics) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if m == nil {
		return handler(ctx, req)
	}
	mm := m.method(info.FullMethod, kindUnary)
	call := m.begin(mm)
	mm.received.Inc()
	resp, err := handler(ctx, req)
	if err == nil {
		mm.sent.Inc()
	}
	call.end(err)
	return resp, err
}

// stream counts a stream that begins, and what goes over the one that it returns.
func (m *metrics) stream(ss grpc.ServerStream, info *grpc.StreamServerInfo) *countingStream {
	if m == nil {
		return &countingStream{ServerStream: ss}
	}
	return &countingStream{ServerStream: ss, call: m.begin(m.method(info.FullMethod, streamKind(info.IsClientStream, info.IsServerStream)))}
}

type countingStream struct {
	grpc.ServerStream
	call timedCall // zero: nothing is counted
}

// end counts how it has ended.
func (s *countingStream) end(err error) {
	if s.call.m != nil {
		s.call.end(err)
	}
}

// SendMsg counts what was sent.
func (s *countingStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil && s.call.m != nil {
		s.call.mm.sent.Inc()
	}
	return err
}

// RecvMsg counts what was received.
func (s *countingStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil && s.call.m != nil {
		s.call.mm.received.Inc()
	}
	return err
}

// addWatchResponses counts messages that were sent together.
func (m *metrics) addWatchResponses(n int) {
	if m != nil {
		m.method(etcdserverpb.Watch_Watch_FullMethodName, kindBidiStream).sent.Add(float64(n))
	}
}

// addWatchRequest counts a message that was received without RecvMsg.
func (m *metrics) addWatchRequest(bytes int) {
	if m != nil {
		m.method(etcdserverpb.Watch_Watch_FullMethodName, kindBidiStream).received.Inc()
		m.addBytesIn(bytes)
	}
}

// clientRequest counts a request by the version that the client claims, which comes from outside.
func (m *metrics) clientRequest(kind, version string) {
	if m == nil {
		return
	}
	if c := m.latest.Load(); c != nil && c.kind == kind && c.version == version {
		c.count.Inc()
		return
	}
	c := &clientCounter{kind: kind, version: version, count: m.clients.WithLabelValues(kind, m.seen.label(version))}
	c.count.Inc()
	m.latest.Store(c)
}

func (m *metrics) addBytesIn(n int) {
	if m != nil {
		m.bytesIn.Add(float64(n))
	}
}

func (m *metrics) addBytesOut(n int) {
	if m != nil {
		m.bytesOut.Add(float64(n))
	}
}
