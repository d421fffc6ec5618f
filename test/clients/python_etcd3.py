"""What Python's etcd3 client (gRPC's C core) does with a cluster: ENDPOINT (host:port) [CA USER PASSWORD]. With a
user it speaks TLS: without, gRPC gives tokens to nobody.

Each line on standard output is a step that went as it does with etcd; a step that asks the test for something waits for a line on standard input.
An exception ends it.
"""
import sys
import threading
import time

import etcd3
import etcd3.exceptions
import grpc


def step(what):
    print(what, flush=True)


def ask(what):
    print('? ' + what, flush=True)
    sys.stdin.readline()


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def connect(address, ca=None, user=None, password=None):
    host, port = address.split(':')
    return etcd3.client(host=host, port=int(port), timeout=10, ca_cert=ca, user=user, password=password)


def status_of(call):
    """The code and text of a call that must be refused."""
    try:
        call()
    except grpc.RpcError as e:
        return e.code(), e.details()
    raise AssertionError('it was not refused')


def keys(c):
    c.put('/py/a', 'one')
    value, meta = c.get('/py/a')
    expect(value == b'one' and meta.version == 1, (value, meta.version))
    for i in range(30):
        c.put('/py/%02d' % i, str(i))
    seen = [m.key for _, m in c.get_prefix('/py/', sort_order='descend')]
    expect(len(seen) == 31 and seen == sorted(seen, reverse=True), seen)
    # The client asks with both ends; a range reaches over all ranges of the store.
    expect(len(list(c.get_all())) >= 31, 'all keys')
    expect(c.put_if_not_exists('/py/new', 'x') and not c.put_if_not_exists('/py/new', 'y'), 'put_if_not_exists')
    expect(c.replace('/py/new', 'x', 'z') and not c.replace('/py/new', 'x', 'w'), 'replace')
    expect(c.delete('/py/new', prev_kv=True, return_response=True).prev_kvs[0].value == b'z', 'delete with prev_kv')
    expect(c.delete_prefix('/py/0').deleted == 10, 'delete_prefix')
    step('keys')


def transactions(c):
    t = c.transactions
    ok, answers = c.transaction(
        compare=[t.value('/py/10') == '10', t.version('/py/10') > 0],
        success=[t.put('/py/t', 'yes'), t.get('/py/10'), t.txn([t.create('/py/10') > 0], [t.put('k/other-range', 'n')], [])],
        failure=[t.put('/py/t', 'no')])
    expect(ok and answers[1][0][0] == b'10', answers)
    expect(c.get('/py/t')[0] == b'yes' and c.get('k/other-range')[0] == b'n', 'what the transaction wrote')
    ok, _ = c.transaction(compare=[t.create('/py/t') == 0], success=[], failure=[t.delete('/py/t')])
    expect(not ok and c.get('/py/t')[0] is None, 'the other branch')
    step('transactions')


def leases(c):
    lease = c.lease(2)
    c.put('/py/leased', 'v', lease)
    expect(list(lease.keys) == [b'/py/leased'] and lease.granted_ttl == 2, 'time to live')
    for _ in range(4):
        time.sleep(1)
        expect(lease.refresh()[0].TTL == 2, 'keep-alive')
    expect(c.get('/py/leased')[0] == b'v', 'kept')
    events, cancel = c.watch('/py/leased')
    expect(isinstance(next(events), etcd3.events.DeleteEvent), 'expiry is an event')
    cancel()
    lease = c.lease(60)
    c.put('/py/leased', 'v', lease)
    lease.revoke()
    expect(c.get('/py/leased')[0] is None, 'revoked')
    step('leases')


def locks(c, other):
    # Its own way to wait breaks with the tenacity that Debian has; waiting is a watch on the key all the same.
    first, second, got = c.lock('py', ttl=30), other.lock('py', ttl=30), []
    expect(first.acquire() and first.is_acquired(), 'the first has it')
    expect(not second.acquire(timeout=0), 'the second has it, too')

    def waits():
        other.watch_once(second.key, timeout=20)
        got.append(second.acquire(timeout=0))

    waiter = threading.Thread(target=waits)
    waiter.start()
    time.sleep(0.5)
    expect(first.release(), 'release')
    waiter.join()
    expect(got == [True] and second.is_acquired(), got)
    second.release()
    step('locks')


def watches(c):
    from_revision = int(c.get_prefix_response('/py/watched').header.revision) + 1
    events, cancel = c.watch_prefix('/py/watched', start_revision=from_revision, prev_kv=True)
    for i in range(20):
        c.put('/py/watched/%d' % (i % 3), str(i))
    c.delete_prefix('/py/watched')
    seen = [next(events) for _ in range(23)]
    expect([e.value for e in seen[:20]] == [str(i).encode() for i in range(20)], 'order')
    expect(all(isinstance(e, etcd3.events.DeleteEvent) for e in seen[20:]), 'deletes')
    expect(seen[3].prev_value == b'0', 'prev_kv')
    cancel()
    c.compact(from_revision + 5, physical=True)
    lost, _ = c.watch_prefix('/py/watched', start_revision=from_revision)
    try:
        next(lost)
        raise AssertionError('a watch from a compacted revision')
    except etcd3.exceptions.RevisionCompactedError as e:
        expect(e.compacted_revision == from_revision + 5, e.compacted_revision)
    expect(status_of(lambda: c.compact(from_revision)) == (
        grpc.StatusCode.OUT_OF_RANGE, 'etcdserver: mvcc: required revision has been compacted'), 'compacted twice')
    step('watches')


def maintenance(c):
    status = c.status()
    expect(status.version.startswith('3.7.') and status.leader.id, status.version)
    members = list(c.members)
    expect(len(members) == 3 and all(m.client_urls for m in members), members)
    expect(list(c.list_alarms()) == [] and c.hash() != 0, 'alarms and hash')
    c.defragment()
    step('maintenance')


def users(address, ca, user, password):
    code, text = status_of(lambda: connect(address, ca, user, 'wrong'))
    expect((code, text) == (grpc.StatusCode.INVALID_ARGUMENT, 'etcdserver: authentication failed, invalid user ID or password'), (code, text))
    # A client without a name is refused; with one it may what its role has.
    code, text = status_of(lambda: connect(address, ca).get('/py/a'))
    expect((code, text) == (grpc.StatusCode.INVALID_ARGUMENT, 'etcdserver: user name is empty'), (code, text))
    c = connect(address, ca, user, password)
    c.put('/py/mine', 'v')
    expect(c.get('/py/mine')[0] == b'v', 'own key')
    code, text = status_of(lambda: c.put('/other', 'v'))
    expect((code, text) == (grpc.StatusCode.PERMISSION_DENIED, 'etcdserver: permission denied'), (code, text))
    events, cancel = c.watch_prefix('/py/')
    c.put('/py/mine', 'w')
    expect(next(events).value == b'w', 'a watch with a token')
    cancel()
    step('users')


def main():
    address = sys.argv[1]
    if len(sys.argv) > 2:
        users(address, *sys.argv[2:])
        return
    c, other = connect(address), connect(address)
    keys(c)
    transactions(c)
    leases(c)
    locks(c, other)
    watches(c)
    maintenance(c)
    ask('restart')
    deadline = time.time() + 20
    while True:  # gRPC's C core connects again by itself, some time after it was refused
        try:
            c.put('/py/after', 'v')
            break
        except etcd3.exceptions.ConnectionFailedError:
            expect(time.time() < deadline, 'it does not connect again')
            time.sleep(0.2)
    expect(c.get('/py/after')[0] == b'v', 'after a restart')
    step('restart')


main()
