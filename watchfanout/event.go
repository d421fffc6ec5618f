package watchfanout

import "pontoon/shard"

// eventOverheadBytes is what an event weighs in a queue beside its keys and values.
const eventOverheadBytes = 160

// eventBytes is the memory that an event pins, roughly.
func eventBytes(e *shard.Event) int { return eventOverheadBytes + e.DataBytes() }
