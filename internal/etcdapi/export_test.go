package etcdapi

import "google.golang.org/grpc"

// DrainTime is drainTime.
var DrainTime = drainTime

// Plain is a stream as it were if gRPC had nothing but its API.
func Plain(s grpc.ServerStream) grpc.ServerStream { return plainStream{s} }

// RawCodec hands out messages as they came.
type RawCodec = rawCodec
