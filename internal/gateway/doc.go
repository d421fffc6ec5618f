// Package gateway offers etcd's gRPC services as JSON under /v3/, by grpc-gateway and the handlers that etcd publishes for it.
//
// It owns: the form of requests and answers. It knows nothing of what is asked: whatever comes in goes to a gRPC server by a connection
// that it is given, so that there is one way in, with one set of checks, limits and counters.
//
// Names are those of the messages' fields, 64-bit numbers are texts, bytes are in base64, and empty fields are left out. A stream
// is one object a line, or one message of a websocket. An error is that of gRPC, with the status of HTTP that grpc-gateway gives it.
package gateway
