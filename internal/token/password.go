package token

import (
	"context"
	"log/slog"
	"runtime"

	"golang.org/x/crypto/bcrypt"

	"pontoon/shard"
)

// hashesWaitingMax bounds the passwords that wait for a processor: beyond them shard.ErrTooManyRequests.
const hashesWaitingMax = 256

// Passwords hashes passwords, on as many processors as there are at most. Any number of goroutines may use it.
type Passwords struct {
	cost    int
	waiting chan struct{} // holds one for whoever waits or is at it
	working chan struct{} // holds one for whoever is at it
}

// NewPasswords returns one of the given cost. Where bcrypt knows no such cost it takes its own and says so.
func NewPasswords(cost int, log *slog.Logger) *Passwords {
	if cost < bcrypt.MinCost || cost > bcrypt.MaxCost {
		log.Warn("use default bcrypt cost instead of the invalid given cost",
			"min-cost", bcrypt.MinCost, "max-cost", bcrypt.MaxCost, "default-cost", bcrypt.DefaultCost, "given-cost", cost)
		cost = bcrypt.DefaultCost
	}
	workers := runtime.GOMAXPROCS(0)
	return &Passwords{cost: cost, waiting: make(chan struct{}, workers+hashesWaitingMax), working: make(chan struct{}, workers)}
}

// Hash returns the hash of a password. The error is bcrypt's where it is too long.
func (p *Passwords) Hash(ctx context.Context, password string) (hash []byte, err error) {
	err = p.work(ctx, func() error {
		hash, err = bcrypt.GenerateFromPassword([]byte(password), p.cost)
		return err
	})
	return hash, err
}

// Check is nil where the hash is that of the password, and shard.ErrAuthFailed where it is not.
func (p *Passwords) Check(ctx context.Context, hash []byte, password string) error {
	return p.work(ctx, func() error {
		if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil {
			return shard.ErrAuthFailed
		}
		return nil
	})
}

func (p *Passwords) work(ctx context.Context, fn func() error) error {
	select {
	case p.waiting <- struct{}{}:
	default:
		return shard.ErrTooManyRequests
	}
	defer func() { <-p.waiting }()
	select {
	case p.working <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.working }()
	return fn()
}
