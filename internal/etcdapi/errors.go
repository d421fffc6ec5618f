package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/shard"
)

// reasonDuplicateID is what etcd puts into the cancel reason of a watch whose id is in use.
const reasonDuplicateID = "mvcc: duplicate watch ID provided on the WatchStream"

// toRPC turns an error of package shard, or of a context, into the one that etcd's clients
// know. It is the only place that does. Order matters where one error wraps another: what
// became of the request (timed out, ambiguous) comes before why.
//
// clientv3 tries reads again on every Unavailable, and writes only where it knows that
// nothing was sent; so an ambiguous outcome may be Unavailable without being repeated.
func toRPC(err error) error {
	if err == nil {
		return nil
	}
	for _, m := range errorTable {
		if errors.Is(err, m.is) {
			return m.rpc
		}
	}
	var compacted *shard.CompactedError
	var notLeader *shard.NotLeaderError
	var wrongRange *shard.WrongRangeError
	switch {
	case errors.As(err, &compacted):
		return rpctypes.ErrGRPCCompacted
	case errors.As(err, &notLeader), errors.As(err, &wrongRange):
		return rpctypes.ErrGRPCNoLeader
	case errors.Is(err, shard.ErrUnimplemented):
		return status.Error(codes.Unimplemented, "etcdserver: "+err.Error())
	case errors.Is(err, shard.ErrInvalid):
		return status.Error(codes.InvalidArgument, "etcdserver: "+err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(contextCause(err)).Err()
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return status.Error(codes.Unknown, err.Error())
}

// outcomeUnknown is an error of etcd's that leaves open whether the request was carried out. It is of a
// type of its own because etcd has one text, "request timed out", for what was and for what was not sent:
// errors.Is never takes one for the other, while clients of etcd see the same.
type outcomeUnknown struct{ as error }

func (e outcomeUnknown) Error() string { return e.as.Error() }

// GRPCStatus is what gRPC sends.
func (e outcomeUnknown) GRPCStatus() *status.Status { return status.Convert(e.as) }

// OutcomeUnknown reports whether an error that this package answered with, in the same process, leaves
// open whether the request was carried out.
func OutcomeUnknown(err error) bool {
	var e outcomeUnknown
	return errors.As(err, &e)
}

// errTooManyRequests has the code that etcd's servers send: they have the text in their table, and not the error that gRPC would take the code from.
// Clients know it by its text.
// errOrphan ends a stream on which nothing can come from here. It is not etcd's "no leader", by which its client ends a watch for good: this one it opens again, and elsewhere.
var errOrphan = status.Error(codes.Unavailable, "pontoon: nothing is heard of what is watched, or of who leads; another endpoint may hear of it")

var errTooManyRequests = status.Error(codes.Unknown, rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests))

// errorTable is searched in order.
var errorTable = []struct{ is, rpc error }{
	{shard.ErrAmbiguousTimeout, outcomeUnknown{rpctypes.ErrGRPCTimeout}},
	{shard.ErrAmbiguousConnection, outcomeUnknown{rpctypes.ErrGRPCTimeoutDueToConnectionLost}},
	{shard.ErrAmbiguous, outcomeUnknown{rpctypes.ErrGRPCTimeoutDueToLeaderFail}},
	{shard.ErrTimeout, rpctypes.ErrGRPCTimeout},
	{shard.ErrFutureRevision, rpctypes.ErrGRPCFutureRev},
	{shard.ErrLeaseNotFound, rpctypes.ErrGRPCLeaseNotFound},
	{shard.ErrLeaseExists, rpctypes.ErrGRPCLeaseExist},
	{shard.ErrLeaseTTLTooLarge, rpctypes.ErrGRPCLeaseTTLTooLarge},
	{shard.ErrKeyNotFound, rpctypes.ErrGRPCKeyNotFound},
	{shard.ErrTooManyRequests, errTooManyRequests},
	{shard.ErrNoSpace, rpctypes.ErrGRPCNoSpace},
	{shard.ErrCorrupt, rpctypes.ErrGRPCCorrupt},
	{shard.ErrClusterCorrupt, rpctypes.ErrGRPCCorrupt},
	{shard.ErrStopped, rpctypes.ErrGRPCStopped},
	{shard.ErrUnavailable, rpctypes.ErrGRPCNoLeader},
	{shard.ErrStaleEpoch, rpctypes.ErrGRPCLeaderChanged},
	{shard.ErrMemberNotFound, rpctypes.ErrGRPCMemberNotFound},
	{shard.ErrMemberExists, rpctypes.ErrGRPCMemberExist},
	{shard.ErrPeerURLExists, rpctypes.ErrGRPCPeerURLExist},
	{shard.ErrMemberBadURLs, rpctypes.ErrGRPCMemberBadURLs},
	{shard.ErrNotEnoughStarted, rpctypes.ErrGRPCMemberNotEnoughStarted},
	{shard.ErrUnhealthy, rpctypes.ErrGRPCUnhealthy},
	{shard.ErrNotLearner, rpctypes.ErrGRPCMemberNotLearner},
	{shard.ErrLearnerNotReady, rpctypes.ErrGRPCLearnerNotReady},
	{shard.ErrTooManyLearners, rpctypes.ErrGRPCTooManyLearners},
	{shard.ErrRootUserNotExist, rpctypes.ErrGRPCRootUserNotExist},
	{shard.ErrRootRoleNotExist, rpctypes.ErrGRPCRootRoleNotExist},
	{shard.ErrUserExists, rpctypes.ErrGRPCUserAlreadyExist},
	{shard.ErrUserEmpty, rpctypes.ErrGRPCUserEmpty},
	{shard.ErrUserNotFound, rpctypes.ErrGRPCUserNotFound},
	{shard.ErrRoleExists, rpctypes.ErrGRPCRoleAlreadyExist},
	{shard.ErrRoleNotFound, rpctypes.ErrGRPCRoleNotFound},
	{shard.ErrRoleEmpty, rpctypes.ErrGRPCRoleEmpty},
	{shard.ErrPermissionNotGiven, rpctypes.ErrGRPCPermissionNotGiven},
	{shard.ErrAuthFailed, rpctypes.ErrGRPCAuthFailed},
	{shard.ErrPermissionDenied, rpctypes.ErrGRPCPermissionDenied},
	{shard.ErrRoleNotGranted, rpctypes.ErrGRPCRoleNotGranted},
	{shard.ErrPermissionNotGranted, rpctypes.ErrGRPCPermissionNotGranted},
	{shard.ErrAuthNotEnabled, rpctypes.ErrGRPCAuthNotEnabled},
	{shard.ErrAuthOldRevision, rpctypes.ErrGRPCAuthOldRevision},
	{shard.ErrInvalidAuthToken, rpctypes.ErrGRPCInvalidAuthToken},
	{shard.ErrInvalidAuthMgmt, rpctypes.ErrGRPCInvalidAuthMgmt},
}

// contextCause picks the bare context error out of a wrapped one, as gRPC wants it.
func contextCause(err error) error {
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	return context.DeadlineExceeded
}

// toRPCWithin maps the error of a call that this package gave a deadline of its own: when
// that one has passed, and the client's has not, etcd says that the request timed out.
func toRPCWithin(client context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && client.Err() == nil {
		return rpctypes.ErrGRPCTimeout
	}
	return toRPC(err)
}

// errUnimplemented answers for what this version does not do.
func errUnimplemented(what string) error {
	return status.Error(codes.Unimplemented, fmt.Sprintf("etcdserver: %s is not supported yet", what))
}

// errNoOlderBuild answers who would begin a downgrade.
var errNoOlderBuild = status.Error(codes.FailedPrecondition, "etcdserver: downgrade is not possible: no older version of Pontoon can read what this one writes")

// errUnknownMethod answers an action that etcd does not know either.
var errUnknownMethod = status.Error(codes.Unknown, "etcdserver: unknown method")

// errPanicked answers for a handler that panicked; the log holds the rest.
func errPanicked(method string) error {
	return status.Error(codes.Internal, "etcdserver: internal error in "+method)
}

// errResponseTooLong answers a watch of which one revision takes more than gRPC can send.
func errResponseTooLong(size int) error {
	return status.Error(codes.ResourceExhausted, fmt.Sprintf("etcdserver: a watch response of %d bytes is longer than a message may be", size))
}

// What is wrong with a message that comes without gRPC's own way of receiving, in gRPC's words.
var errCompressed = status.Error(codes.Internal, "grpc: compressed flag set with identity or empty encoding")

func errPayloadFormat(flag byte) error {
	return status.Errorf(codes.Internal, "grpc: received unexpected payload format %d", flag)
}

func errRequestTooLong(bytes uint32, most int) error {
	return status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", bytes, most)
}

func errUndecodable(err error) error {
	return status.Errorf(codes.Internal, "grpc: failed to unmarshal the received message: %v", err)
}

// errReceive is an error of a connection's stream; io.EOF stays.
func errReceive(err error) error {
	if errors.Is(err, io.EOF) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return status.Error(codes.Internal, err.Error())
	}
	return toRPC(err)
}
