//go:build !linux

package lab

import (
	"context"
	"errors"
	"net"
	"time"
)

// Host is a machine; there are none on this system.
type Host struct{ IP net.IP }

// Link is what packets in one direction between two hosts meet.
type Link struct {
	Cut   bool
	Loss  float64
	Delay time.Duration
	Rate  float64
}

// Lab is some hosts and the switch between them.
type Lab struct{ Hosts []*Host }

var errNone = errors.New("lab: namespaces are there on Linux alone")

// Available tells what is missing.
func Available() error { return errNone }

// New fails here.
func New(int) (*Lab, error) { return nil, errNone }

// Set does nothing here.
func (l *Lab) Set(int, int, Link) {}

// Heal does nothing here.
func (l *Lab) Heal() {}

// Close does nothing here.
func (l *Lab) Close() {}

// Do fails here.
func (h *Host) Do(func() error) error { return errNone }

// Dial fails here.
func (h *Host) Dial(context.Context, string) (net.Conn, error) { return nil, errNone }

// Disk fails here.
func (h *Host) Disk(string, int64) error { return errNone }

// FillDisk fails here.
func (h *Host) FillDisk(string) error { return errNone }

// ClearDisk fails here.
func (h *Host) ClearDisk(string) error { return errNone }
