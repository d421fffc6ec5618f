package etcdapi

import (
	"path"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// registerReflection serves gRPC reflection. etcd's files are registered under other paths than those
// by which they import each other (kv.proto, imported as etcd/api/mvccpb/kv.proto), so that a client
// could list the services but describe none: it is told files that are named as they are imported.
func registerReflection(s reflection.GRPCServer) {
	o := reflection.ServerOptions{Services: s}
	if files, err := importableFiles(protoregistry.GlobalFiles); err == nil {
		o.DescriptorResolver = files
	}
	reflectionpb.RegisterServerReflectionServer(s.(grpc.ServiceRegistrar), reflection.NewServerV1(o))
	reflectionalpha.RegisterServerReflectionServer(s.(grpc.ServiceRegistrar), reflection.NewServer(o))
}

// importableFiles copies a registry, with every file under the path by which others import it.
func importableFiles(reg *protoregistry.Files) (*protoregistry.Files, error) {
	var set descriptorpb.FileDescriptorSet
	renamed := map[string]string{}
	reg.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
		for i := range f.Imports().Len() {
			im := f.Imports().Get(i)
			if !im.IsPlaceholder() {
				continue
			}
			found, err := reg.FindFileByPath(path.Base(im.Path()))
			if err == nil && string(found.Package()) == path.Base(path.Dir(im.Path())) {
				renamed[found.Path()] = im.Path()
			}
		}
		return true
	})
	for _, f := range set.File {
		if to, ok := renamed[f.GetName()]; ok {
			f.Name = &to
		}
		for i, dep := range f.Dependency {
			if to, ok := renamed[dep]; ok {
				f.Dependency[i] = to
			}
		}
	}
	return protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(&set)
}
