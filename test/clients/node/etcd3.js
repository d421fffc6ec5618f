// What Node's etcd3 client (grpc-js) does with a cluster: URL,URL,URL. It makes users itself, turns authentication on, and off again.
//
// Each line on standard output is a step that went as it does with etcd; a step that asks the test for something waits for a line on standard
// input. An exception ends it.
'use strict';
const assert = require('assert');
const readline = require('readline');
const { Etcd3, Range, EtcdPermissionDeniedError, EtcdAuthenticationFailedError, EtcdLockFailedError, isRecoverableError } = require('etcd3');
const { ExponentialBackoff, handleWhen, retry } = require('cockatiel');

const hosts = process.argv[2].split(',');
const step = what => console.log(what);
const input = readline.createInterface({ input: process.stdin });
const ask = what => new Promise(answered => {
  input.once('line', answered);
  console.log('? ' + what);
});
const event = (emitter, name, what) => new Promise((resolve, reject) => {
  const late = setTimeout(() => reject(new Error(what + ': no ' + name)), 20000);
  emitter.once(name, v => { clearTimeout(late); resolve(v); });
});

// A call that meets a node which is gone is tried again elsewhere, as the client's documentation advises.
const faultHandling = {
  global: retry(handleWhen(isRecoverableError), { maxAttempts: 20, backoff: new ExponentialBackoff({ maxDelay: 500 }) }),
};
const connect = auth => new Etcd3({ hosts, auth, dialTimeout: 10000, faultHandling });

async function keys(c) {
  await c.put('/node/a').value('one');
  assert.strictEqual(await c.get('/node/a').string(), 'one');
  for (let i = 0; i < 30; i++) await c.put(`/node/n/${i}`).value(i);
  assert.strictEqual((await c.getAll().prefix('/node/n/').keys()).length, 30);
  const sorted = await c.getAll().prefix('/node/n/').sort('Key', 'Descend').limit(3).numbers();
  assert.deepStrictEqual(Object.values(sorted), [9, 8, 7]);
  assert.strictEqual(await c.getAll().prefix('/node/n/').count(), 30);
  await c.delete().prefix('/node/n/1');
  assert.strictEqual((await c.getAll().prefix('/node/n/').keys()).length, 19);
  const bytes = Buffer.from([0, 255, 128, 10]);
  await c.put('/node/bytes').value(bytes);
  assert.ok(bytes.equals(await c.get('/node/bytes').buffer()));
  assert.strictEqual(await c.get('/node/none').string(), null);
  step('keys');
}

async function transactions(c) {
  const won = await c.if('/node/a', 'Value', '==', 'one').and('/node/none', 'Create', '==', 0)
    .then(c.put('/node/t').value('yes'), c.put('k/other-range').value('n'), c.get('/node/a'))
    .else(c.put('/node/t').value('no')).commit();
  assert.ok(won.succeeded);
  assert.strictEqual(await c.get('/node/t').string(), 'yes');
  assert.strictEqual(await c.get('k/other-range').string(), 'n');
  assert.ok(!(await c.if('/node/t', 'Version', '>', 5).then(c.delete().key('/node/t')).commit()).succeeded);
  let sum = 0; // software transactions over several keys, which collide
  await Promise.all([1, 2, 3, 4].map(n => c.stm({ retries: 50 }).transact(async tx => {
    const at = Number(await tx.get('/node/sum').string() || 0);
    await tx.put('/node/sum').value(at + n);
  })));
  sum = await c.get('/node/sum').number();
  assert.strictEqual(sum, 10);
  step('transactions');
}

async function leases(c) {
  const lease = c.lease(3);
  await lease.put('/node/leased').value('v');
  await new Promise(r => setTimeout(r, 5000)); // it keeps itself alive
  assert.strictEqual(await c.get('/node/leased').string(), 'v');
  const watcher = await c.watch().key('/node/leased').create();
  const gone = event(watcher, 'delete', 'expiry');
  lease.release(); // forgotten by the client: it expires
  await gone;
  await watcher.cancel();
  const revoked = c.lease(60);
  await revoked.put('/node/leased').value('v');
  await revoked.revoke();
  assert.strictEqual(await c.get('/node/leased').string(), null);
  const lost = c.lease(2, { autoKeepAlive: false });
  await lost.put('/node/leased').value('v');
  await new Promise(r => setTimeout(r, 5000));
  await assert.rejects(lost.keepaliveOnce(), /expired or revoked/);
  step('leases');
}

async function locks(c, other) {
  const held = await c.lock('node').ttl(10).acquire();
  await assert.rejects(other.lock('node').acquire(), EtcdLockFailedError);
  await held.release();
  await other.lock('node').do(async () => {});
  const first = c.election('node', 5).campaign('one');
  await first.wait();
  const second = other.election('node', 5).campaign('two');
  const observer = await other.election('node', 5).observe();
  assert.strictEqual(observer.leader() || await event(observer, 'change', 'leader'), 'one');
  const two = new Promise(seen => observer.on('change', leader => leader === 'two' && seen())); // there may be none for a moment
  const elected = second.wait(); // who begins to wait after it was elected waits for ever
  await first.resign();
  await elected;
  await two;
  await second.resign();
  await observer.cancel();
  step('locks');
}

async function watches(c) {
  const at = Number((await c.put('/node/w/start').value('x')).header.revision);
  const seen = [];
  const watcher = await c.watch().prefix('/node/w/').startRevision(String(at)).create();
  watcher.on('put', kv => seen.push(kv.value.toString()));
  for (let i = 0; i < 20; i++) await c.put(`/node/w/${i % 3}`).value(i);
  await ask('restart'); // of every node, one after the other: the watch goes on where it was
  for (let i = 20; i < 40; i++) await c.put(`/node/w/${i % 3}`).value(i);
  for (let n = 0; seen.length < 41 && n < 200; n++) await new Promise(r => setTimeout(r, 100));
  assert.deepStrictEqual(seen, ['x', ...Array.from({ length: 40 }, (_, i) => String(i))]);
  await watcher.cancel();
  step('watches');
  const now = Number((await c.put('/node/w/end').value('x')).header.revision);
  await c.kv.compact({ revision: String(now), physical: true });
  const late = c.watch().prefix('/node/w/').startRevision(String(at)).watcher();
  assert.match((await event(late, 'error', 'a watch from a compacted revision')).message, /canceled/); // etcd names no reason, but the revision
  await assert.rejects(c.getAll().prefix('/node/w/').revision(at), /required revision has been compacted/);
  step('compaction');
}

async function users(c) {
  const root = await c.user('root').create('secret');
  await root.addRole('root');
  const role = await c.role('reader').create();
  await role.grant([{ permission: 'Readwrite', range: Range.prefix('/node/') }]);
  const alice = await c.user('alice').create('wonder');
  await alice.addRole('reader');
  await c.auth.authEnable();
  const admin = connect({ username: 'root', password: 'secret' });
  try {
    await assert.rejects(connect({ username: 'alice', password: 'wrong' }).get('/node/a').string(), EtcdAuthenticationFailedError);
    const mine = connect({ username: 'alice', password: 'wonder' });
    assert.strictEqual(await mine.get('/node/a').string(), 'one');
    await assert.rejects(mine.put('/other').value('v'), EtcdPermissionDeniedError);
    await assert.rejects(c.get('/node/a').string(), /user name is empty/);
    const watcher = await mine.watch().prefix('/node/').create();
    const put = event(watcher, 'put', 'a watch with a token');
    await mine.put('/node/a').value('two');
    assert.strictEqual((await put).value.toString(), 'two');
    await watcher.cancel();
    assert.deepStrictEqual((await admin.getUsers()).map(u => u.name).sort(), ['alice', 'root']);
    mine.close();
  } finally {
    await admin.auth.authDisable();
    admin.close();
  }
  step('users');
}

async function main() {
  const c = connect(), other = connect();
  await keys(c);
  await transactions(c);
  await leases(c);
  await locks(c, other);
  await watches(c);
  await users(c);
  const status = await c.maintenance.status();
  assert.ok(status.version.startsWith('3.7.'));
  assert.strictEqual((await c.cluster.memberList({})).members.length, hosts.length);
  step('maintenance');
  c.close();
  other.close();
  input.close();
}

main().then(() => process.exit(0), e => { console.error(e); process.exit(1); });
