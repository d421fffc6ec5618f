package host

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pontoon/internal/meta"
	"pontoon/placement/gossip"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// registerMetrics gives the node's figures under etcd's names where the meaning is the same,
// and under pontoon_ where it is ours. All are read at scrape time: none costs a request anything,
// and none is kept per range.
func (h opening) registerMetrics() error {
	reg := h.cfg.Registry
	gauge := func(name, help string, fn func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, fn))
	}
	counter := func(name, help string, fn func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, fn))
	}
	if h.cfg.TLS != nil {
		reg.MustRegister(h.cfg.TLS)
	}
	reg.MustRegister(h.net.traffic, h.disk.all(), h.machines.all(), h.ranges.scheduler.compactions.figures.all())
	h.registerMember(gauge)
	h.registerRare(gauge, counter)
	counter("etcd_server_leader_changes_seen_total", "The number of leader changes of the meta group that this node has seen.", func() float64 {
		return float64(h.metaLeads.count.Load())
	})
	gauge("etcd_server_proposals_committed_total", "The commit index of the meta group.", func() float64 { return float64(h.metaStatus().Commit) })
	gauge("etcd_server_proposals_applied_total", "The applied index of the meta group.", func() float64 { return float64(h.metaStatus().Applied) })
	h.quota.register(gauge)
	gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes in use in all range files of this node.", func() float64 { t := h.ranges.sizes(); return float64(min(t.InUse, t.Taken)) })
	gauge("pontoon_unsettled_bytes", "Bytes of versions that the stores of this node hold in memory until they have settled them.", func() float64 { return float64(h.memory.Used()) })
	gauge("pontoon_linger_seconds", "How long writes on this node wait for others to share a log entry; 0 while processors are not short.", func() float64 { return h.ranges.linger.Pause().Seconds() })
	gauge("etcd_debugging_mvcc_keys_total", "Keys in the replicas of this node.", func() float64 { return float64(h.ranges.sizes().Keys) })
	gauge("etcd_debugging_mvcc_current_revision", "The newest revision that this node has seen.", func() float64 {
		rev, _ := h.cluster.Newest()
		return float64(rev)
	})
	counter("pontoon_peer_calls_detoured_total", "Calls that were sent by way of another node, for want of a connection.", func() float64 { return float64(h.net.mesh.Stats().CallsDetoured) })
	counter("pontoon_peer_calls_relayed_total", "Calls that were passed on for another node.", func() float64 { return float64(h.net.mesh.Stats().CallsRelayed) })
	counter("pontoon_peer_calls_sent_total", "Calls that were sent to other nodes.", func() float64 { return float64(h.net.mesh.Stats().CallsSent) })
	counter("pontoon_peer_calls_refused_total", "Calls to other nodes, and what is only told, for which there was no room here.", func() float64 { return float64(h.net.mesh.Stats().CallsRefused) })
	counter("pontoon_peer_calls_failed_total", "Calls to other nodes that ended without an answer.", func() float64 { return float64(h.net.mesh.Stats().CallsFailed) })
	counter("pontoon_peer_served_refused_total", "Calls of other nodes that were refused because too much of that node was being served.", func() float64 { return float64(h.net.mesh.Stats().ServedRefused) })
	counter("pontoon_peer_call_frames_sent_total", "Frames that carried calls to other nodes.", func() float64 { return float64(h.net.mesh.Stats().FramesSent) })
	counter("pontoon_peer_answer_frames_sent_total", "Frames that carried answers to other nodes.", func() float64 { return float64(h.net.mesh.Stats().AnswerFrames) })
	counter("pontoon_raft_frames_sent_total", "Frames of Raft messages that were sent to other nodes.", func() float64 { return float64(h.net.transport.Stats().FramesSent) })
	counter("pontoon_raft_frames_dropped_total", "Frames that were not sent, for want of room or of a connection; their messages are sent again.", func() float64 { return float64(h.net.transport.Stats().FramesDropped) })
	counter("pontoon_raft_bytes_sent_total", "Bytes in these frames.", func() float64 { return float64(h.net.transport.Stats().BytesSent) })
	gauge("pontoon_raft_unwritten_bytes", "Bytes of entries that have come in and are not in the Raft log yet.", func() float64 { return float64(h.raft.Stats().UnwrittenBytes) })
	counter("pontoon_raft_messages_dropped_total", "Raft messages of other nodes for which there was no room; they are sent again.", func() float64 { return float64(h.raft.Stats().MessagesDropped) })
	counter("pontoon_raft_bytes_dropped_total", "Bytes in these messages.", func() float64 { return float64(h.raft.Stats().BytesDropped) })
	counter("pontoon_log_writes_total", "Writes of the shared Raft log, each synced once for all ranges.", func() float64 { return float64(h.raftLog.Stats().Saves) })
	counter("pontoon_log_updates_total", "Updates of single ranges in these writes.", func() float64 { return float64(h.raftLog.Stats().Updates) })
	counter("pontoon_log_entries_total", "Log entries in these writes.", func() float64 { return float64(h.raftLog.Stats().Entries) })
	counter("pontoon_txn_committed_total", "Transactions over several ranges that this node coordinated and answered.", func() float64 { return float64(h.ranges.txns.Committed.Load()) })
	counter("pontoon_txn_failed_total", "Transactions over several ranges that this node coordinated and answered with an error.", func() float64 { return float64(h.ranges.txns.Failed.Load()) })
	counter("pontoon_txn_retried_total", "Attempts at transactions over several ranges that were undone and tried again.", func() float64 { return float64(h.ranges.txns.Retried.Load()) })
	counter("pontoon_txn_inquiries_total", "Questions about locks that nobody had ended for an election timeout.", func() float64 { return float64(h.ranges.txns.Inquiries.Load()) })
	h.registerReplicas(gauge, counter)
	reg.MustRegister(h.ranges.defragmenter.took)
	gauge("etcd_disk_defrag_inflight", "Whether or not defrag is active on the member. 1 means active, 0 means not.", func() float64 { return asFloat(h.ranges.defragmenter.running.Load()) })
	h.registerOps(shard.OpSplit)
	h.registerOps(shard.OpMove)
	h.registerPlanner()
	for _, state := range []gossip.State{gossip.StateAlive, gossip.StateSuspect, gossip.StateDead} {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pontoon_gossip_members", Help: "Members by how gossip sees them from this node, this node included.",
			ConstLabels: prometheus.Labels{"state": state.String()},
		}, func() float64 { return float64(h.members.count(state)) }))
	}
	counter("pontoon_reads_refused_total", "Calls that read much and found no place to wait.", func() float64 {
		return float64(h.dispatch.pages.refused.Load() + h.dispatch.scans.refused.Load() + h.dispatch.hashes.refused.Load())
	})
	h.feeds.register(gauge, counter)
	gauge("pontoon_ranges", "Replicas of ranges on this node.", func() float64 { return float64(h.ranges.byID.Len()) })
	gauge("pontoon_ranges_leading", "Ranges that this node leads.", func() float64 { return float64(h.ranges.sizes().Leading) })
	gauge("pontoon_ranges_quiescent", "Replicas on this node whose group is quiescent.", func() float64 { return float64(h.ranges.sizes().Quiescent) })
	return nil
}

// registerMember tells what this node is in the cluster.
func (h opening) registerMember(gauge func(name, help string, fn func() float64)) {
	h.cfg.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "etcd_server_id", Help: "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
		ConstLabels: prometheus.Labels{"server_id": strconv.FormatUint(uint64(h.cfg.Identity.Node), 16)},
	}, func() float64 { return 1 }))
	gauge("etcd_server_has_leader", "Whether the meta group has a leader as this node knows. 1 is yes, 0 is no.", func() float64 {
		return asFloat(h.life.metaLeader() != 0)
	})
	gauge("etcd_server_is_leader", "Whether this node leads the meta group. 1 is yes, 0 is no.", func() float64 {
		return asFloat(h.life.metaLeader() == h.cfg.Identity.Node)
	})
	gauge("etcd_server_is_learner", "Whether this node is a learner. 1 is yes, 0 is no.", func() float64 {
		self, _ := h.net.directory.Member(h.cfg.Identity.Node)
		return asFloat(self.Learner)
	})
}

// registerRare counts what seldom happens, or is seldom looked at.
func (h opening) registerRare(gauge, counter func(name, help string, fn func() float64)) {
	counter("pontoon_fences_spared_total", "Replicas that were closed on this node without a fence, since the oracle had given their ranges no revision.", func() float64 { return float64(h.closer.spared.Load()) })
	counter("pontoon_fences_total", "Fences by which this node has closed revisions of ranges that it leads.", func() float64 { return float64(h.closer.fences.Load()) })
	gauge("pontoon_files_bytes", "Bytes of all range files of this node.", func() float64 { return float64(h.ranges.sizes().File) })
	counter("etcd_server_heartbeat_send_failures_total", "Heartbeats of leaders on this node that were due more than two heartbeats after the ones before.", func() float64 {
		return float64(h.raft.Stats().LateHeartbeats)
	})
	counter("etcd_debugging_server_lease_expired_total", "The total number of leases that have expired while this node led the meta group.", func() float64 { return float64(h.meta.expired.Load()) })
	gauge("etcd_mvcc_db_open_read_transactions", "The number of reads that the files of this node's ranges are open for.", func() (n float64) {
		h.ranges.each(func(rep *replica.Replica) { n += float64(rep.OpenReads()) })
		return n
	})
}

// registerReplicas counts replicas that come, go, or are rebuilt, what that takes, and what is asked of them.
func (h opening) registerReplicas(gauge, counter func(name, help string, fn func() float64)) {
	h.dispatch.room.Register(h.cfg.Registry, "leader")
	counter("pontoon_replica_damaged_total", "Replicas whose file was found damaged since the start.", func() float64 { return float64(h.ranges.repairs.count.Load()) })
	counter("pontoon_replicas_removed_total", "Replicas of this node that their ranges have given up, since the start.", func() float64 { return float64(h.ranges.removals.count.Load()) })
	gauge("pontoon_replicas_waiting", "Replicas of this node that have had no state yet.", func() float64 { return float64(h.ranges.repairs.newcomers()) })
	counter("pontoon_snapshots_sent_total", "Snapshots of ranges that other nodes have accepted.", func() float64 { return float64(h.net.transport.Stats().SnapshotsSent) })
	counter("pontoon_snapshots_received_total", "Snapshots of ranges that other nodes have sent.", func() float64 { return float64(h.net.transport.Stats().SnapshotsReceived) })
	counter("pontoon_snapshot_bytes_sent_total", "Bytes of snapshots that were sent to other nodes.", func() float64 { return float64(h.net.transport.Stats().SnapshotBytesSent) })
	counter("pontoon_snapshot_bytes_received_total", "Bytes of snapshots that were received from other nodes.", func() float64 { return float64(h.net.transport.Stats().SnapshotBytesReceived) })
	gauge("pontoon_replicas_rebuilding", "Replicas of this node that wait for their state.", func() float64 { return float64(h.ranges.repairs.waiting()) })
}

// registerOps counts the ops of a kind, where this node drives them: as the meta group's leader.
func (h opening) registerOps(kind shard.OpKind) {
	ended := func(outcome string, fn func(meta.OpStats) uint64) {
		h.cfg.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "pontoon_ops_total", Help: "Changes of ranges that have ended while this node led the meta group, by what became of them.",
			ConstLabels: prometheus.Labels{"kind": kind.String(), "outcome": outcome},
		}, func() float64 { return float64(fn(h.meta.get().OpStats(kind))) }))
	}
	ended("done", func(st meta.OpStats) uint64 { return st.Done })
	ended("given_up", func(st meta.OpStats) uint64 { return st.GivenUp })
	times := func(name, help string, fn func(meta.OpStats) time.Duration) {
		h.cfg.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{"kind": kind.String()}},
			func() float64 { return fn(h.meta.get().OpStats(kind)).Seconds() }))
	}
	times("pontoon_ops_stood_seconds_total", "How long requests of ranges have waited for changes of them that were done while this node led the meta group.",
		func(st meta.OpStats) time.Duration { return st.Stood })
	times("pontoon_ops_seconds_total", "How long these changes took, from when they were decided.", func(st meta.OpStats) time.Duration { return st.Took })
	h.cfg.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pontoon_ops_under_way", Help: "Changes of ranges that are under way, on the node that leads the meta group.",
		ConstLabels: prometheus.Labels{"kind": kind.String()},
	}, func() float64 { return float64(h.meta.get().OpStats(kind).UnderWay) }))
}

// registerPlanner tells of the planner, where it runs: on the meta group's leader.
func (h opening) registerPlanner() {
	gauge := func(name, help string, fn func(meta.PlanStats) float64) {
		h.cfg.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return fn(meta.StatsOfPlans(h.meta.get())) }))
	}
	handed := func(outcome string, fn func(meta.PlanStats) uint64) {
		h.cfg.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "pontoon_lead_transfers_total", Help: "Leads that the planner of this node has had handed over, by what became of that.",
			ConstLabels: prometheus.Labels{"outcome": outcome},
		}, func() float64 { return float64(fn(meta.StatsOfPlans(h.meta.get()))) }))
	}
	handed("done", func(st meta.PlanStats) uint64 { return st.HandedOver })
	handed("failed", func(st meta.PlanStats) uint64 { return st.NotHandedOver })
	h.cfg.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "pontoon_plan_rounds_total", Help: "Rounds of the planner, on the node that leads the meta group.",
	}, func() float64 { return float64(meta.StatsOfPlans(h.meta.get()).Rounds) }))
	gauge("pontoon_plan_round_seconds", "What the planner's last round took, questions to nodes not counted; 0 where it does not run.", func(st meta.PlanStats) float64 { return st.Worked.Seconds() })
	gauge("pontoon_plan_age_seconds", "Time since the planner's last round; 0 where it does not run.", func(st meta.PlanStats) float64 { return st.Age.Seconds() })
	gauge("pontoon_plan_blocked", "Changes that were due in the planner's last round and could not begin; `client plan` names them.", func(st meta.PlanStats) float64 { return float64(st.Blocked) })
	gauge("pontoon_ranges_unsplittable", "Ranges that are too large or too busy, and that no key parts; 0 where the planner does not run.", func(st meta.PlanStats) float64 { return float64(st.Unsplittable) })
	gauge("pontoon_nodes_silent", "Members that do not answer the planner; 0 where it does not run.", func(st meta.PlanStats) float64 { return float64(st.SilentNodes) })
	gauge("pontoon_nodes_dead", "Those of them that have been silent for so long that their replicas are replaced.", func(st meta.PlanStats) float64 { return float64(st.Dead) })
}

func asFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
