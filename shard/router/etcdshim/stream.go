package etcdshim

import (
	"context"
	"errors"
	"io"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

type chunk = etcdserverpb.RangeStreamResponse

// RangeStream implements etcdserverpb.KVClient. It returns with the first chunk: until then the
// ordinary way is open.
func (s *shim) RangeStream(ctx context.Context, r *etcdserverpb.RangeRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[chunk], error) {
	if r.Serializable {
		return s.plain.RangeStream(ctx, r, opts...)
	}
	l, err := s.link(ctx)
	if err == nil && !s.begin() {
		l.users.Done()
		err = context.Canceled
	}
	switch {
	case err != nil && s.strict:
		return nil, err
	case err != nil:
		return s.plain.RangeStream(ctx, r, opts...)
	}
	p := newPipe(ctx, s.cli.Ctx())
	go func() {
		defer s.wg.Done()
		defer l.users.Done()
		p.end(l.kv.RangeStream(r, &pipeServer{p: p}))
	}()
	p.first, p.firstErr = p.next()
	if p.firstErr != nil && !s.strict && elsewhere(ctx, p.firstErr, true) {
		s.giveUp(l, p.firstErr)
		return s.plain.RangeStream(ctx, r, opts...)
	}
	return p, nil
}

// pipe is a stream within the process: pipeServer is the end that sends, pipe the one that
// receives. It ends with the caller's context, or the client's.
type pipe struct {
	grpc.ClientStream // nil: clientv3 only receives
	ctx               context.Context
	cancel            context.CancelFunc
	stop              func() bool
	chunks            chan *chunk
	ended             chan struct{}
	err               error // valid once ended is closed

	first    *chunk
	firstErr error
}

func newPipe(ctx, client context.Context) *pipe {
	p := &pipe{chunks: make(chan *chunk), ended: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.stop = context.AfterFunc(client, p.cancel)
	return p
}

// end is called once, by who sends.
func (p *pipe) end(err error) {
	if err == nil {
		err = io.EOF
	}
	p.err = err
	p.stop()
	p.cancel()
	close(p.ended)
}

// Recv returns the next chunk, io.EOF after the last one.
func (p *pipe) Recv() (*chunk, error) {
	if p.first != nil || p.firstErr != nil {
		c := p.first
		p.first = nil
		return c, p.firstErr
	}
	return p.next()
}

func (p *pipe) next() (*chunk, error) {
	select {
	case c := <-p.chunks:
		return c, nil
	case <-p.ended:
		return nil, p.err
	}
}

// Context returns the stream's context.
func (p *pipe) Context() context.Context { return p.ctx }

// Header implements grpc.ClientStream: there is none in process.
func (p *pipe) Header() (metadata.MD, error) { return nil, nil }

// Trailer implements grpc.ClientStream: there is none in process.
func (p *pipe) Trailer() metadata.MD { return nil }

// CloseSend implements grpc.ClientStream.
func (p *pipe) CloseSend() error { return nil }

// RecvMsg implements grpc.ClientStream for nobody: Recv is typed.
func (p *pipe) RecvMsg(any) error { return errors.ErrUnsupported }

// SendMsg implements grpc.ClientStream: the request has been sent.
func (p *pipe) SendMsg(any) error { return errors.ErrUnsupported }

// pipeServer is the end of a pipe that the KV service sees.
type pipeServer struct {
	grpc.ServerStream // nil: the service only sends
	p                 *pipe
}

// Context returns the stream's context.
func (s *pipeServer) Context() context.Context { return s.p.ctx }

// Send hands a chunk over and waits until it was taken.
func (s *pipeServer) Send(c *chunk) error {
	select {
	case s.p.chunks <- c:
		return nil
	case <-s.p.ctx.Done():
		return s.p.ctx.Err()
	}
}
