package peer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"pontoon/shard"
)

func TestIdentityCheck(t *testing.T) {
	me := Identity{ClusterID: 0xc1, Node: 2}
	good := func() metadata.MD { return Identity{ClusterID: 0xc1, Node: 1}.outgoing(2) }
	with := func(key string, values ...string) metadata.MD {
		md := good()
		md[key] = values
		return md
	}
	for _, tc := range []struct {
		name string
		md   metadata.MD
		want string // in the refusal; empty: accepted
	}{
		{"right", good(), ""},
		{"nothing stated", metadata.MD{}, `version is "" there and 1 here`},
		{"another version", with(keyFormat, "2"), `version is "2" there and 1 here`},
		{"no cluster", with(keyCluster), "no cluster id"},
		{"a cluster that is no number", with(keyCluster, "here"), "no cluster id"},
		{"another cluster", Identity{ClusterID: 0xc2, Node: 1}.outgoing(2), "the caller belongs to cluster c2, this node to c1"},
		{"for another node", Identity{ClusterID: 0xc1, Node: 1}.outgoing(3), "looked for node 3 at this address, but this is node 2"},
		{"for nobody", with(keyTo), "but this is node 2"},
		{"from nobody", with(keyFrom), "no node id"},
		{"from no node", with(keyFrom, "0"), "no node id"},
		{"from itself", with(keyFrom, "2"), "own id 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			from, err := me.check(tc.md)
			if tc.want == "" {
				if err != nil || from != 1 {
					t.Errorf("from %v, %v", from, err)
				}
				return
			}
			if from != 0 || err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("from %v: %v, want %q", from, err, tc.want)
			}
			if !Refused(err) {
				t.Errorf("%v does not count as a refusal", err)
			}
		})
	}
}

func TestIdsAreHexadecimal(t *testing.T) {
	const big = shard.NodeID(0x8e9e05c52164694d)
	from, err := Identity{ClusterID: 7, Node: 1}.check(Identity{ClusterID: 7, Node: big}.outgoing(1))
	if err != nil || from != big {
		t.Errorf("%v, %v", from, err)
	}
}

func TestRefusedIsNothingElse(t *testing.T) {
	for _, err := range []error{nil, errors.New("x"), status.Error(codes.Unavailable, "x"), status.Error(codes.Unimplemented, "x")} {
		if Refused(err) {
			t.Errorf("%v counts as a refusal", err)
		}
	}
}

func TestBackoffWaitsLongerForARefusal(t *testing.T) {
	for range 100 {
		if d := Backoff(errors.New("reset")); d < 50*time.Millisecond || d >= 100*time.Millisecond {
			t.Fatalf("after an error: %v", d)
		}
		if d := Backoff(refuse("no")); d < time.Second || d >= 2*time.Second {
			t.Fatalf("after a refusal: %v", d)
		}
	}
}
