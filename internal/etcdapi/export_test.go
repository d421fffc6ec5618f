package etcdapi

// DrainTime is drainTime.
var DrainTime = drainTime
