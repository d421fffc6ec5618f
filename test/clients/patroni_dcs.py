"""What Patroni does with its store, by its own code, without a PostgreSQL: URL,URL,URL [USER PASSWORD].

Each line on standard output is a step that went as it does with etcd; a step that asks the test for something waits for a line on standard input.
An exception ends it.
"""
import logging
import sys
import threading
import time

from patroni.dcs import get_dcs

TTL = 6  # seconds; Patroni's own lowest is 20, which a configuration may not go below, and code may


def step(what):
    print(what, flush=True)


def ask(what):
    print('? ' + what, flush=True)
    sys.stdin.readline()


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def node(name, hosts, user, password):
    """A member of the PostgreSQL cluster, as Patroni starts one."""
    store = {'hosts': [h.split('//')[1] for h in hosts.split(',')]}
    if user:
        # Without this, this Patroni asks for the members before it logs in, and etcd 3.7 tells those to nobody without a token.
        store.update(username=user, password=password, use_proxies=True)
    return get_dcs({'etcd3': store, 'scope': 'demo', 'namespace': 'service', 'name': name, 'ttl': TTL, 'loop_wait': 1, 'retry_timeout': 5})


def leader(dcs):
    c = dcs.get_cluster()
    return c.leader and c.leader.name


def until(what, condition, within=20):
    deadline = time.time() + within
    while not condition():
        expect(time.time() < deadline, what)
        time.sleep(0.2)


def birth(a, b):
    expect(a.initialize(create_new=True, sysid='4711'), 'the first one initialises')
    expect(not b.initialize(create_new=True, sysid='4712'), 'and the second does not')
    for dcs in a, b:
        expect(dcs.touch_member({'conn_url': 'postgres://' + dcs._name, 'state': 'running'}), 'touch_member')
    until('both are seen', lambda: sorted(m.name for m in a.get_cluster().members) == ['pg1', 'pg2'])
    expect(a.get_cluster().initialize == '4711', 'initialize')
    step('birth')


def kept(a, b, seconds):
    """pg1 has the lock and keeps it: for as long pg2 does not get it."""
    over = time.time() + seconds
    while time.time() < over:
        expect(a.update_leader(1000, None), 'the leader keeps its lock')
        expect(not b.attempt_to_acquire_leader(), 'somebody else gets it')
        time.sleep(0.5)
    until('pg1 leads', lambda: leader(b) == 'pg1')


def lock(a, b):
    expect(a.attempt_to_acquire_leader(), 'the lock is free')
    kept(a, b, 1.5 * TTL)
    step('kept')
    # A leader that dies stops to update.
    died = time.time()
    b.touch_member({'conn_url': 'postgres://pg2', 'state': 'running'})
    until('the lock is free', lambda: b.attempt_to_acquire_leader(), within=3 * TTL)
    expect(time.time() - died > TTL / 3, 'taken too early')
    until('pg2 leads', lambda: leader(a) == 'pg2')
    expect(not a.attempt_to_acquire_leader(), 'both lead')
    step('lost')
    # A planned change: the leader lets go, and who watches hears of it at once.
    a.event.clear()
    until('pg2 lets go', lambda: b.get_cluster() and b.delete_leader())
    began = time.time()
    expect(a.watch(None, 10) and time.time() - began < 5, 'the watch wakes up')
    until('pg1 takes it', lambda: a.attempt_to_acquire_leader())
    until('pg1 leads', lambda: leader(b) == 'pg1')
    step('taken')


def settings(a, b):
    expect(a.set_config_value('{"ttl": 30}'), 'set_config_value')
    until('the configuration arrives', lambda: b.get_cluster().config is not None)
    at = b.get_cluster().config.index
    expect(a.set_config_value('{"ttl": 31}', at), 'compare and set')
    expect(not b.set_config_value('{"ttl": 32}', at), 'compare and set with an old index')
    expect(a.manual_failover('pg1', 'pg2'), 'manual_failover')
    until('the failover arrives', lambda: b.get_cluster().failover is not None)
    expect(b.get_cluster().failover.candidate == 'pg2', 'candidate')
    expect(a.set_history_value('[]') and a.get_cluster() is not None, 'history')
    step('settings')


def main():
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    hosts, user, password = (sys.argv[1:] + [None, None])[:3]
    a, b = node('pg1', hosts, user, password), node('pg2', hosts, user, password)
    birth(a, b)
    lock(a, b)
    settings(a, b)
    asked = threading.Thread(target=ask, args=('restart',))  # of every node, one after the other
    asked.start()
    while asked.is_alive():
        kept(a, b, 1)
    kept(a, b, TTL)
    step('restart')
    a.delete_cluster()
    until('all is gone', lambda: not a.get_cluster().members)
    step('gone')


main()
