// Command genpb generates the code of internal/pb from its .proto files, with Go alone: it parses them itself,
// has protoc-gen-go and protoc-gen-go-grpc (tools of this module) write types and stubs, and writes the codecs.
//
// A codec is a message's size, encoding and decoding without reflection, in calls of the helpers of internal/pb/codec.go:
// a line per field, where vtprotobuf, whose names the methods have, writes loops for each. Whatever kind of field no
// message has had yet is refused, so that nobody relies on what has never been tried.
//
//	cd internal/tools/genpb && go run . ../../..
package main
