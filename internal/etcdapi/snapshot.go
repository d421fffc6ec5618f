package etcdapi

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Snapshots makes files of the whole store.
type Snapshots interface {
	// Snapshot makes a file of etcd's of everything at a revision that is current between the call and its end, and tells its size in bytes.
	// Whoever asks closes it. Errors are of package shard, or the context's.
	Snapshot(ctx context.Context) (file io.ReadCloser, size int64, err error)
}

// snapshotPieceBytes is what a message of a snapshot has, as in etcd.
const snapshotPieceBytes = 32 << 10

// storageVersion is that of the files that snapshots are.
const storageVersion = "3.7.0"

// Snapshot sends a file of the whole store, and behind it its checksum. Nothing is sent before the file is whole.
func (s *maintenanceServer) Snapshot(_ *etcdserverpb.SnapshotRequest, stream grpc.ServerStreamingServer[etcdserverpb.SnapshotResponse]) (err error) {
	if s.api.cfg.Snapshots == nil {
		return errUnimplemented("a snapshot of the whole store")
	}
	file, total, err := s.api.cfg.Snapshots.Snapshot(stream.Context())
	if err != nil {
		s.api.cfg.Logger.Warn("failed to make a snapshot", "error", err)
		return toRPC(err)
	}
	defer func() {
		if cerr := file.Close(); cerr != nil {
			s.api.cfg.Logger.Warn("failed to close snapshot", "error", cerr)
		}
	}()
	began, size := time.Now(), humanBytes(total)
	s.api.cfg.Logger.Info("sending database snapshot to client", "total-bytes", total, "size", size, "storage-version", storageVersion)
	sum := sha256.New()
	for sent := int64(0); sent < total; {
		piece := make([]byte, min(snapshotPieceBytes, total-sent)) // gRPC may hold on to it
		if _, err := io.ReadFull(file, piece); err != nil {
			return toRPC(err)
		}
		sent += int64(len(piece))
		_, _ = sum.Write(piece)
		if err := stream.Send(&etcdserverpb.SnapshotResponse{RemainingBytes: uint64(total - sent), Blob: piece, Version: storageVersion}); err != nil {
			return toRPC(err)
		}
	}
	s.api.cfg.Logger.Info("sending database sha256 checksum to client", "total-bytes", total, "checksum-size", sum.Size())
	if err := stream.Send(&etcdserverpb.SnapshotResponse{Blob: sum.Sum(nil), Version: storageVersion}); err != nil {
		return toRPC(err)
	}
	s.api.cfg.Logger.Info("successfully sent database snapshot to client", "total-bytes", total, "size", size, "took", time.Since(began), "storage-version", storageVersion)
	return nil
}

// humanBytes is a size as people read it, in etcd's form: in thousands, with one digit behind the point where there is one before it.
func humanBytes(n int64) string {
	const thousand = 1000
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	v, unit := float64(n), 0
	for v >= thousand && unit < len(units)-1 {
		v, unit = v/thousand, unit+1
	}
	if v < 10 && unit > 0 {
		return fmt.Sprintf("%.1f %s", v, units[unit])
	}
	return fmt.Sprintf("%.0f %s", v, units[unit])
}
