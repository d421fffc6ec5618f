package harness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Of linux/inet_diag.h and linux/sock_diag.h.
const (
	diagByFamily    = 20
	diagMemory      = 7 // an attribute: what a socket holds, as ss -m shows it
	diagRequestSize = 56
	diagAnswerSize  = 72
	established     = 1

	memReceived, memAhead, memQueued = 0, 4, 5 // in that attribute: to be read, reserved, and to be sent
)

// KernelMemory is what the system holds for the connections of the node's clients, in bytes, and how many there are.
func (n *Node) KernelMemory() (bytes int64, connections int, err error) {
	u, err := url.Parse(n.ClientURL)
	if err != nil {
		return 0, 0, err
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return 0, 0, err
	}
	all, err := askSockets()
	if err != nil {
		return 0, 0, err
	}
	for _, m := range all {
		if len(m.Data) < diagAnswerSize || binary.BigEndian.Uint16(m.Data[4:]) != uint16(port) {
			continue
		}
		connections++
		bytes += heldBy(m.Data[diagAnswerSize:])
	}
	return bytes, connections, nil
}

func heldBy(attributes []byte) (bytes int64) {
	for a := attributes; len(a) >= unix.SizeofRtAttr; {
		size, kind := int(binary.NativeEndian.Uint16(a)), binary.NativeEndian.Uint16(a[2:])
		if size < unix.SizeofRtAttr || size > len(a) {
			break
		}
		if v := a[unix.SizeofRtAttr:size]; kind == diagMemory {
			for _, i := range []int{memReceived, memAhead, memQueued} {
				bytes += int64(binary.NativeEndian.Uint32(v[4*i:]))
			}
		}
		a = a[min(len(a), (size+3)&^3):]
	}
	return bytes
}

// askSockets lists all established connections of IPv4.
func askSockets() (out []syscall.NetlinkMessage, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	req := make([]byte, unix.SizeofNlMsghdr+diagRequestSize)
	binary.NativeEndian.PutUint32(req, uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], diagByFamily)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	body := req[unix.SizeofNlMsghdr:]
	body[0], body[1], body[2] = unix.AF_INET, unix.IPPROTO_TCP, 1<<(diagMemory-1)
	binary.NativeEndian.PutUint32(body[4:], 1<<established)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return nil, err
		}
		ms, err := syscall.ParseNetlinkMessage(append([]byte(nil), buf[:n]...))
		if err != nil {
			return nil, err
		}
		for _, m := range ms {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return out, nil
			case unix.NLMSG_ERROR:
				return nil, fmt.Errorf("the system tells nothing of its sockets: %w", errors.ErrUnsupported)
			}
			out = append(out, m)
		}
	}
}
