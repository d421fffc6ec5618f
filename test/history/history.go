package history

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
)

// The kinds of commands.
const (
	Put       = "put"
	Range     = "range"
	Delete    = "delete"
	Txn       = "txn"
	Compact   = "compact"
	Grant     = "grant"
	Revoke    = "revoke"
	KeepAlive = "keepalive"
)

// The fates of a command: its answer is known, it was certainly refused, or nobody knows.
const (
	OK      = "ok"
	Refused = "refused"
	Unknown = "unknown"
)

// Never is the return time of a command whose outcome nobody learned.
const Never = math.MaxInt64

// Cmd is a request, or one operation of a transaction. End is as in etcd: empty for one key,
// "\x00" for everything from Key on.
type Cmd struct {
	Kind         string `json:"kind"`
	Key          string `json:"key,omitempty"`
	End          string `json:"end,omitempty"`
	Value        string `json:"value,omitempty"`
	Lease        int64  `json:"lease,omitempty"` // of a put; the id of grant, revoke and keepalive
	TTL          int64  `json:"ttl,omitempty"`   // of a grant, in seconds
	Prev         bool   `json:"prev,omitempty"`
	Rev          int64  `json:"rev,omitempty"` // of a range: read there; of a compaction: its revision
	Limit        int64  `json:"limit,omitempty"`
	CountOnly    bool   `json:"count_only,omitempty"`
	KeysOnly     bool   `json:"keys_only,omitempty"`
	Serializable bool   `json:"serializable,omitempty"`
	Cmps         []Cmp  `json:"cmps,omitempty"`
	Then         []Cmd  `json:"then,omitempty"`
	Else         []Cmd  `json:"else,omitempty"`
}

// Cmp is a compare of a transaction.
type Cmp struct {
	Key    string `json:"key"`
	End    string `json:"end,omitempty"`
	Target string `json:"target"` // value, mod, create, version, lease
	Op     string `json:"op"`     // =, !=, <, >
	Value  string `json:"value,omitempty"`
	Number int64  `json:"number,omitempty"`
}

// KV is a key as etcd shows it.
type KV struct {
	Key     string `json:"key"`
	Value   string `json:"value,omitempty"`
	Create  int64  `json:"create"`
	Mod     int64  `json:"mod"`
	Version int64  `json:"version"`
	Lease   int64  `json:"lease,omitempty"`
}

// Result is the answer to a Cmd.
type Result struct {
	Rev       int64    `json:"rev,omitempty"` // of the header; 0 within a transaction
	Prev      *KV      `json:"prev,omitempty"`
	Kvs       []KV     `json:"kvs,omitempty"` // of a range, or the previous ones of a delete
	Count     int64    `json:"count,omitempty"`
	More      bool     `json:"more,omitempty"`
	Deleted   int64    `json:"deleted,omitempty"`
	Succeeded bool     `json:"succeeded,omitempty"`
	Results   []Result `json:"results,omitempty"`
	TTL       int64    `json:"ttl,omitempty"`
}

// Op is a request with its outcome. Times are nanoseconds of one monotonic clock.
type Op struct {
	ID     int64   `json:"id"`
	Client int     `json:"client"`
	Call   int64   `json:"call"`
	Return int64   `json:"return"`
	Fate   string  `json:"fate"`
	Err    string  `json:"err,omitempty"`
	Cmd    Cmd     `json:"cmd"`
	Result *Result `json:"result,omitempty"`
}

// Event is what a watch delivers.
type Event struct {
	Del  bool `json:"del,omitempty"`
	KV   KV   `json:"kv"`
	Prev *KV  `json:"prev,omitempty"`
}

// Watch is a request to watch. Rev 0 begins after the revision of the first answer.
type Watch struct {
	ID     int64  `json:"id"`
	Client int    `json:"client"`
	Call   int64  `json:"call"`
	Key    string `json:"key"`
	End    string `json:"end,omitempty"`
	Rev    int64  `json:"rev,omitempty"`
	Prev   bool   `json:"prev,omitempty"`

	Responses []WatchResponse `json:"-"`
}

// WatchResponse is one message of a watch. One that has neither events nor Created nor Err is a
// progress notification.
type WatchResponse struct {
	Watch   int64   `json:"watch"`
	At      int64   `json:"at"`
	Rev     int64   `json:"rev,omitempty"`
	Created bool    `json:"created,omitempty"`
	Events  []Event `json:"events,omitempty"`
	Compact int64   `json:"compact,omitempty"` // the watch ended: compacted up to there
	Err     string  `json:"err,omitempty"`
}

// History is everything that clients of one cluster saw.
type History struct {
	Ops     []*Op
	Watches []*Watch
}

// line is one line of a file.
type line struct {
	Op       *Op            `json:"op,omitempty"`
	Watch    *Watch         `json:"watch,omitempty"`
	Response *WatchResponse `json:"response,omitempty"`
}

// Write writes the history as JSON lines.
func (h *History) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	for _, op := range h.Ops {
		if err := enc.Encode(line{Op: op}); err != nil {
			return fmt.Errorf("history: %w", err)
		}
	}
	for _, wa := range h.Watches {
		if err := enc.Encode(line{Watch: wa}); err != nil {
			return fmt.Errorf("history: %w", err)
		}
		for i := range wa.Responses {
			if err := enc.Encode(line{Response: &wa.Responses[i]}); err != nil {
				return fmt.Errorf("history: %w", err)
			}
		}
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return nil
}

// Save writes the history to a file.
func (h *History) Save(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := h.Write(f); err != nil {
		_ = f.Close() // the first error counts
		return err
	}
	return f.Close()
}

// Read reads what Write wrote.
func Read(r io.Reader) (*History, error) {
	h := &History{}
	watches := map[int64]*Watch{}
	dec := json.NewDecoder(r)
	for n := 1; ; n++ {
		var l line
		err := dec.Decode(&l)
		switch {
		case err == io.EOF:
			return h, nil
		case err != nil:
			return nil, fmt.Errorf("history: line %d: %w", n, err)
		case l.Op != nil:
			h.Ops = append(h.Ops, l.Op)
		case l.Watch != nil:
			h.Watches = append(h.Watches, l.Watch)
			watches[l.Watch.ID] = l.Watch
		case l.Response != nil && watches[l.Response.Watch] != nil:
			w := watches[l.Response.Watch]
			w.Responses = append(w.Responses, *l.Response)
		default:
			return nil, fmt.Errorf("history: line %d: neither a command nor a watch nor a response to one", n)
		}
	}
}

// Open reads a history from a file.
func Open(name string) (*History, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	return Read(bufio.NewReaderSize(f, 1<<20))
}

// effective tells whether an answered command changed something, and so owns its revision.
func effective(c *Cmd, r *Result) bool {
	switch c.Kind {
	case Put:
		return true
	case Delete:
		return r.Deleted > 0
	case Txn:
		branch := c.Else
		if r.Succeeded {
			branch = c.Then
		}
		for i := range min(len(branch), len(r.Results)) {
			if effective(&branch[i], &r.Results[i]) {
				return true
			}
		}
	}
	return false
}

// mayWrite tells whether a command can change something at all.
func mayWrite(c *Cmd) bool {
	if c.Kind == Put || c.Kind == Delete {
		return true
	}
	return c.Kind == Txn && (anyWrites(c.Then) || anyWrites(c.Else))
}

func anyWrites(cs []Cmd) bool {
	for i := range cs {
		if mayWrite(&cs[i]) {
			return true
		}
	}
	return false
}

// each calls fn for a command and for all within it.
func each(c *Cmd, fn func(*Cmd)) {
	fn(c)
	for i := range c.Then {
		each(&c.Then[i], fn)
	}
	for i := range c.Else {
		each(&c.Else[i], fn)
	}
}

// inSpan tells whether a key lies in etcd's [key, end).
func inSpan(k, key, end string) bool {
	switch end {
	case "":
		return k == key
	case "\x00":
		return k >= key
	}
	return k >= key && k < end
}
