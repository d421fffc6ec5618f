package datadir

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pontoon/shard"
)

func identity(cluster uint64, node shard.NodeID) Identity {
	return Identity{Cluster: cluster, Node: node, Members: []shard.Member{{ID: node, Name: "n", PeerURLs: []string{"http://a:1"}}}}
}

func open(t *testing.T, path string, want Identity, pinned bool) (Identity, error) {
	t.Helper()
	d, got, err := Open(path, want, pinned)
	if err == nil {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return got, err
}

func TestIdentityIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	if _, err := open(t, path, identity(7, 1<<63+1), true); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	got, err := open(t, path, identity(8, 2), false)
	if err != nil || got.Cluster != 7 || got.Node != 1<<63+1 || got.Members[0].Name != "n" {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := open(t, path, identity(8, 9), true); err == nil || !strings.Contains(err.Error(), "belongs to another cluster") {
		t.Errorf("another cluster: %v", err)
	}
}

// TestMembersHaveChanged: flags that name the members of today, where they named those of the first day before, are not those of another cluster; and of
// a node that has joined the directory alone says what it is.
func TestMembersHaveChanged(t *testing.T) {
	of := func(cluster uint64, node shard.NodeID, ids ...shard.NodeID) Identity {
		id := Identity{Cluster: cluster, Node: node}
		for _, m := range ids {
			id.Members = append(id.Members, shard.Member{ID: m})
		}
		return id
	}
	joined := of(7, 2, 1, 2, 3)
	joined.Joined = true
	for _, tc := range []struct {
		what      string
		has, says Identity
		err       string
	}{
		{"as before", of(7, 2, 1, 2, 3), of(7, 2, 1, 2, 3), ""},
		{"one has come", of(7, 2, 1, 2, 3), of(8, 2, 1, 2, 3, 4), ""},
		{"one has gone", of(7, 2, 1, 2, 3), of(8, 2, 1, 2), ""},
		{"the node alone has stayed", of(7, 2, 1, 2, 3), of(8, 2, 2), ""},
		{"a cluster of one has grown", of(7, 2, 2), of(8, 2, 1, 2, 3), ""},
		{"another has moved", of(7, 2, 1, 2, 3), of(8, 2, 1, 2, 33), ""},
		{"the node has moved", of(7, 2, 1, 2, 3), of(8, 22, 1, 22, 3), ""},
		{"a cluster of one has moved", of(7, 2, 2), of(8, 22, 22), "belongs to another cluster"},
		{"another cluster with the node's URLs", of(7, 2, 1, 2, 3), of(8, 2, 11, 2, 33), "belongs to another cluster"},
		{"another cluster", of(7, 2, 1, 2, 3), of(8, 22, 11, 22, 33), "belongs to another cluster"},
		{"the directory of another node", of(7, 2, 1, 2, 3), of(7, 3, 1, 2, 3), "belongs to another node"},
		{"the same, and one has come", of(7, 2, 1, 2, 3), of(8, 3, 1, 2, 3, 4), "belongs to another node"},
		{"a node that has joined", joined, of(8, 9, 9), ""},
	} {
		path := t.TempDir()
		if _, err := open(t, path, tc.has, true); err != nil {
			t.Fatal(err)
		}
		got, err := open(t, path, tc.says, true)
		if tc.err == "" && (err != nil || got.Cluster != 7 || got.Node != 2) || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: %+v, %v", tc.what, got, err)
		}
	}
}

// TestFirstStartFails: where it is not found out who the node is, nothing is left.
func TestFirstStartFails(t *testing.T) {
	path := t.TempDir()
	failed := errors.New("nobody knows")
	if _, _, err := OpenFirst(path, Identity{}, false, func() (Identity, error) { return Identity{}, failed }); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	if got, err := open(t, path, identity(7, 1), true); err != nil || got.Node != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestLock(t *testing.T) {
	path := t.TempDir()
	d, _, err := Open(path, identity(7, 1), true)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(path, identity(7, 1), true); !errors.Is(err, ErrLocked) {
		t.Errorf("second process: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, path, identity(7, 1), true); err != nil {
		t.Errorf("after the first is gone: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ name, file, text, want string }{
		{"damaged", identityName, "{", "identity.json is damaged"},
		{"no members", identityName, `{"format":2,"cluster":"1","node":"2"}`, "identity.json is damaged"},
		{"older", identityName, `{"format":1,"cluster":"1","node":"2"}`, "identity.json says format 1, this program reads format 2"},
		{"newer", identityName, `{"format":3,"cluster":"1","node":"2"}`, "identity.json says format 3, this program reads format 2"},
		{"foreign", "photos/1.jpg", "x", "not empty (photos)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := t.TempDir()
			if err := os.MkdirAll(filepath.Dir(filepath.Join(path, tt.file)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(path, tt.file), []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := open(t, path, identity(7, 1), true); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestIdentityDamage flips every bit and cuts at every length: a node that reads its own name
// wrong would vote twice.
func TestIdentityDamage(t *testing.T) {
	id := identity(7, 2)
	id.Format = Format
	good, err := encode(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if got, err := decode(bad); err == nil {
				t.Errorf("bit %d of byte %d changed, and it was read as %+v", bit, i, got)
			}
		}
		if _, err := decode(good[:i]); err == nil {
			t.Errorf("cut at %d, and it was taken", i)
		}
	}
}

// FuzzIdentity: an identity file is refused, or is byte for byte what would be written.
func FuzzIdentity(f *testing.F) {
	id := identity(7, 1<<63+1)
	id.Format = Format
	good, err := encode(id)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(`{"format":2,"cluster":"1","node":"2","members":[{"ID":2}],"checksum":"00000000"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decode(b)
		if err != nil {
			return
		}
		if again, err := encode(got); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q was taken, and is written as %q, %v", b, again, err)
		}
	})
}
