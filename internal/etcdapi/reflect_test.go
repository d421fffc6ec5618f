package etcdapi

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// TestReflectedFilesImportEachOther: a client that follows a service's imports finds all of them.
func TestReflectedFilesImportEachOther(t *testing.T) {
	files, err := importableFiles(protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []protoreflect.FullName{"etcdserverpb.KV", "etcdserverpb.Watch", "mvccpb.KeyValue"} {
		d, err := files.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		follow(t, files, d.ParentFile().Path(), map[string]bool{})
	}
}

func follow(t *testing.T, files *protoregistry.Files, path string, seen map[string]bool) {
	t.Helper()
	if seen[path] {
		return
	}
	seen[path] = true
	f, err := files.FindFileByPath(path)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	for i := range f.Imports().Len() {
		follow(t, files, f.Imports().Get(i).Path(), seen)
	}
}
