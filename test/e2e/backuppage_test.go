package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// TestBackupPage runs the commands of docs/backup.md, one after the other, and starts a node and an etcd on what they have made.
func TestBackupPage(t *testing.T) {
	pontoonOnly(t)
	commands := pageCommands(t, "backup.md")
	if len(commands) < 6 {
		t.Fatalf("the page has the commands %q", commands)
	}
	c := newCluster(t, harness.Options{Nodes: 1})
	ctx := testContext(t, 2*time.Minute)
	dir := t.TempDir()
	if _, err := newClient(t, c).Put(ctx, "k/page", "x"); err != nil {
		t.Fatal(err)
	}
	run(t, "sh", "-c", "mkdir "+filepath.Join(dir, "bin")+" && cp "+clientBinary(t)+" "+filepath.Join(dir, "bin", "client"))
	t.Setenv("PATH", filepath.Dir(etcdutl(t))+":/usr/bin:/bin")
	var hashes []string
	for _, command := range commands {
		out, err := shell(ctx, dir, c, command)
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		t.Logf("%s\n%s", command, out)
		if strings.Contains(command, "snapshot status") {
			hash, _, _ := strings.Cut(out, ",")
			hashes = append(hashes, hash)
		}
	}
	if len(hashes) != 2 || hashes[0] != hashes[1] {
		t.Errorf("the client and etcdutl tell hashes %q of a file", hashes)
	}
	served := func(what string, cl *clientv3.Client) {
		t.Helper()
		if resp, err := cl.Get(ctx, "k/page"); err != nil || len(resp.Kvs) != 1 {
			t.Errorf("%s: %v, %v", what, resp, err)
		}
	}
	cl, stop := etcdOn(t, filepath.Join(dir, "etcd-data"))
	served("etcd", cl)
	stop()
	cl, stop = serverOn(t, env.server, filepath.Join(dir, "restored"))
	served("a node", cl)
	stop()
}
