package bench

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestPreparationTriesAgain: what servers did not get to is tried again, and what had passed all the same counts once.
func TestPreparationTriesAgain(t *testing.T) {
	for _, late := range []error{rpctypes.ErrTimeout, rpctypes.ErrGRPCTimeout, rpctypes.ErrTooManyRequests, rpctypes.ErrNoLeader} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.notServed = late
			l := newLedger(small("range", func(s *Spec) { s.KeySpace = 1003 }))
			if err := l.prepareBy(t.Context(), []clientv3.KV{f}, 10); err != nil {
				t.Fatal(err)
			}
			if problems, err := l.compare(t.Context(), f); err != nil || len(problems) > 0 || len(f.keys) != 1003 {
				t.Errorf("%v: %d keys, %v, %v", late, len(f.keys), problems, err)
			}
			if n := l.preparedAgain.Load(); n < 50 {
				t.Errorf("%v: %d were tried again, of 101 transactions", late, n)
			}
		})
	}
}

// TestPreparationGivesUp: at once where trying again cannot help, and in the end everywhere.
func TestPreparationGivesUp(t *testing.T) {
	s := small("range", func(*Spec) {})
	for _, is := range []error{rpctypes.ErrNoSpace, errors.New("another")} {
		f := newFake()
		f.notServed = is
		l := newLedger(s)
		if err := l.prepareBy(t.Context(), []clientv3.KV{f}, 10); !errors.Is(err, is) || l.preparedAgain.Load() != 0 {
			t.Errorf("%v: %v, %d tries more", is, err, l.preparedAgain.Load())
		}
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := newLedger(s).prepare(t.Context(), []clientv3.KV{never{newFake()}})
		if took := time.Since(began); !errors.Is(err, rpctypes.ErrTimeout) || took < preparePatience || took > preparePatience+preparePauseMax {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// TestPreparationFindsKeys: that are there and that it has not written.
func TestPreparationFindsKeys(t *testing.T) {
	l, f := newLedger(small("range", func(*Spec) {})), newFake()
	if _, err := f.Put(t.Context(), l.keys.at(100), l.values.of(7)); err != nil {
		t.Fatal(err)
	}
	if err := l.prepareBy(t.Context(), []clientv3.KV{f}, 10); err == nil {
		t.Error("a key of somebody else was taken")
	}
}

// never is a store that serves no transaction.
type never struct{ *fake }

func (n never) Txn(context.Context) clientv3.Txn { return neverTxn{&fakeTxn{f: n.fake}} }

type neverTxn struct{ *fakeTxn }

func (t neverTxn) If(...clientv3.Cmp) clientv3.Txn      { return t }
func (t neverTxn) Then(...clientv3.Op) clientv3.Txn     { return t }
func (t neverTxn) Else(...clientv3.Op) clientv3.Txn     { return t }
func (neverTxn) Commit() (*clientv3.TxnResponse, error) { return nil, rpctypes.ErrTimeout }
