package tlsport

import (
	"context"
	"errors"
	"net"

	"pontoon/internal/peeked"
)

// flightBytes is room for what a client says at a time in a handshake: its hello, with keys that withstand quantum computers, or its certificate. What does
// not fit is read, and waited for, in parts.
const flightBytes = 4 << 10

// errLeft is the end of a handshake whose client has hung up while it waited for its place.
var errLeft = errors.New("tlsport: the client has left before it was its turn")

// shaking is a connection in the middle of its handshake. It has a place while the processor has something to do for it, and none while it waits for the
// client, who may never go on: a place is lost from each read of the socket, or write to it, until that read has brought something. When the handshake is
// over it does nothing but read and write.
type shaking struct {
	net.Conn
	head []byte // was read, and belongs before everything else
	turn *turn  // nil: the handshake is over
}

type turn struct {
	ctx    context.Context // of the handshake
	places *places
	crowd  *crowd
	member *member
	socket net.Conn // what Conn reads from in the end
	has    bool     // a place
	begun  bool     // the client was answered: what costs most is done
	room   []byte   // for one flight
}

// Read is called by one reader at a time.
func (s *shaking) Read(p []byte) (int, error) {
	if len(s.head) == 0 {
		if s.turn == nil {
			return s.Conn.Read(p)
		}
		if err := s.flight(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.head)
	if s.head = s.head[n:]; len(s.head) == 0 {
		s.head = nil
	}
	return n, nil
}

// flight waits for the client to say something, and then for a place.
func (s *shaking) flight() error {
	t := s.turn
	t.rest()
	if t.room == nil {
		t.room = make([]byte, flightBytes)
	}
	n, err := s.Conn.Read(t.room)
	if n == 0 {
		return err
	}
	s.head = t.room[:n]
	return t.work()
}

// Write does not wait for the client with a place either.
func (s *shaking) Write(p []byte) (int, error) {
	if t := s.turn; t != nil {
		t.begun = true
		t.rest()
	}
	return s.Conn.Write(p)
}

// over is called when the handshake has ended, before anybody else has the connection.
func (s *shaking) over() {
	s.turn.rest()
	s.turn = nil
}

func (t *turn) rest() {
	if t.has {
		t.has = false
		t.places.give()
	}
	t.crowd.theirTurn(t.member, t.begun)
}

func (t *turn) work() error {
	t.crowd.ourTurn(t.member)
	waited, err := t.places.take(t.ctx, !t.begun)
	if err != nil {
		return err
	}
	t.has = true
	if waited && peeked.Gone(t.socket) {
		return errLeft
	}
	return nil
}
