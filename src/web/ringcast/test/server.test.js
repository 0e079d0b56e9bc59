// The client against a real server: what it promises, also over restarts. Without RINGCAST_BIN
// there is no server to be had, and these are skipped.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connect } from '../ringcast.js';
import { createHmac } from 'node:crypto';
import { BIN, Program, WebSocket } from './program.js';

const options = { skip: BIN ? false : 'RINGCAST_BIN names no program', timeout: 120_000 };
// Restarts take a moment, and a test need not wait as long as people may.
const quick = { WebSocket, backoffMs: 50, backoffMaxMs: 500 };

/** A client that ends with the test. */
function client(t, program, more = {}) {
  const made = connect(program.url, { ...quick, ...more });
  t.after(() => made.close());
  return made;
}

/** The next event of that type that is as wanted. */
function next(emitter, type, isIt = () => true) {
  return new Promise((resolve) => {
    const off = emitter.on(type, (event) => {
      if (!isIt(event)) return;
      off();
      resolve(event);
    });
  });
}

/** Publishes 0, 1, 2, … one after the other until it is told to stop; how many were stored. */
function publishing(room) {
  let isOver = false;
  const done = (async () => {
    let count = 0;
    for (; !isOver; count += 1) await room.publish(count);
    return count;
  })();
  return { stop: () => { isOver = true; return done; } };
}

/** What a room has shown: payloads and offsets. */
function watch(room) {
  const seen = { payloads: [], offsets: [], resets: 0, gaps: 0 };
  room.on('message', ({ payload, offset }) => {
    seen.payloads.push(payload);
    seen.offsets.push(offset);
  });
  room.on('reset', () => { seen.resets += 1; });
  room.on('gap', () => { seen.gaps += 1; });
  return seen;
}

/** Every message once, in order, none missing: 0 to `count` - 1. */
async function allSeen(room, seen, count) {
  if (seen.payloads.at(-1) !== count - 1) {
    await next(room, 'message', ({ payload }) => payload === count - 1);
  }
  assert.deepEqual(seen.payloads, Array.from({ length: count }, (_, n) => n));
  assert.deepEqual(seen.offsets, Array.from({ length: count }, (_, n) => n + 1));
  assert.deepEqual([seen.resets, seen.gaps], [0, 0]);
}

test('rooms, acks, presence, signals, members', options, async (t) => {
  const program = await Program.start(t);
  const [ann, bob] = ['ann', 'bob'].map((username) => client(t, program, { username }));
  const annIn = await ann.join('r', { presence: true }).ready;
  const comes = next(annIn, 'presence', ({ username }) => username === 'bob');
  const bobIn = await bob.join('r').ready;
  assert.deepEqual([(await comes).event, annIn.count], ['join', 2]);
  const hears = next(annIn, 'message');
  const stored = await bobIn.publish({ text: 'hello' }, { metadata: [1] });
  const { offset, id, username, payload, metadata, own } = await hears;
  assert.deepEqual({ id, offset }, stored);
  assert.deepEqual([username, payload, metadata, own], ['bob', { text: 'hello' }, [1], false]);
  const whispers = next(annIn, 'signal');
  assert.equal(bobIn.signal({ typing: true }), true);
  assert.deepEqual((await whispers).payload, { typing: true });
  const { members, count } = await annIn.members();
  assert.deepEqual(members.map((one) => one.username).sort(), ['ann', 'bob']);
  assert.equal(count, 2);
  assert.ok((await ann.ping()) >= 0);
  // The same id is the same message.
  assert.deepEqual(await bobIn.publish('again', { id: stored.id }), stored);
  const goes = next(annIn, 'presence', ({ event }) => event === 'leave');
  bobIn.leave();
  assert.equal((await goes).members, 1);
});

test('last: who comes late gets what was said lately', options, async (t) => {
  const program = await Program.start(t);
  const first = client(t, program);
  for (let n = 0; n < 10; n += 1) await first.publish('r', n);
  const late = client(t, program).join('r', { last: 4 });
  const seen = watch(late);
  await next(late, 'message', ({ payload }) => payload === 9);
  const own = next(late, 'message');
  await late.publish(10);
  await own;
  assert.deepEqual(seen.payloads, [6, 7, 8, 9, 10]);
});

test('a server that is killed and comes back: nothing lost, nothing twice', options, async (t) => {
  const program = await Program.start(t);
  const reader = client(t, program).join('r');
  const seen = watch(reader);
  await reader.ready;
  const writer = client(t, program);
  const work = publishing(writer.join('r'));
  for (let round = 1; round <= 3; round += 1) {
    await next(reader, 'message', ({ payload }) => payload > 20 * round);
    await program.end('SIGKILL');
    const back = next(reader, 'joined');
    await program.up();
    assert.equal((await back).recovered, true);
  }
  await next(reader, 'message');
  await allSeen(reader, seen, await work.stop());
});

test('a server that drains: all are told, nothing lost, nothing twice', options, async (t) => {
  const program = await Program.start(t, ['--drain-window', '20s']);
  const connection = client(t, program);
  const reader = connection.join('r');
  const seen = watch(reader);
  await reader.ready;
  const writer = client(t, program).join('r');
  const work = publishing(writer);
  await next(reader, 'message', ({ payload }) => payload > 20);
  const told = next(connection, 'going_away');
  const ended = program.end('SIGTERM');
  assert.ok((await told).reconnectInMs <= 20_000);
  assert.equal(await ended, 0);
  const back = next(reader, 'joined');
  await program.up();
  assert.equal((await back).recovered, true);
  await next(reader, 'message');
  await allSeen(reader, seen, await work.stop());
});

test('what the server finds too big is refused, the others are stored', options, async (t) => {
  const program = await Program.start(t, ['--max-message-bytes', '1KiB']);
  const writer = client(t, program);
  const big = writer.publish('r', 'x'.repeat(5000)).catch((error) => error);
  const small = writer.publish('r', 'small');
  assert.equal((await big).code, 'too_large');
  assert.equal((await small).offset, 1);
});

test('without a WebSocket it says what to do', options, async () => {
  const before = globalThis.WebSocket;
  delete globalThis.WebSocket;
  try {
    assert.throws(() => connect('ws://127.0.0.1:1'), /option WebSocket/);
  } finally {
    if (before) globalThis.WebSocket = before;
  }
});

/** A token as a site's own backend makes it (HS256). */
function tokenFor(user, seconds, secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + seconds;
  const message = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user, name: user, exp })}`;
  return `${message}.${createHmac('sha256', secret).update(message).digest('base64url')}`;
}

test('a token is renewed on the connection, before it ends', options, async (t) => {
  const secret = 'a secret of the tests, thirty-two bytes long';
  const program = await Program.start(t, ['--store', 'memory', '--jwt-secret', secret]);
  let asked = 0;
  const token = () => { asked += 1; return tokenFor('ann', 4, secret); };
  const ann = client(t, program, { token });
  const errors = [];
  ann.on('error', (error) => errors.push(error));
  const room = ann.join('r');
  await room.ready;
  const welcome = ann.welcome;
  assert.equal(welcome.user_id, 'ann');
  // Longer than any one of its tokens.
  const until = Date.now() + 9000;
  while (Date.now() < until) {
    await room.publish('still here');
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.equal(ann.welcome, welcome, 'one connection all the time');
  assert.ok(asked >= 3, `${asked} tokens`);
  assert.deepEqual(errors, []);
  await assert.rejects(ann.refresh(tokenFor('bob', 60, secret)), { code: 'unauthorized' });
});

test('a text that ends is not tried again', options, async (t) => {
  const secret = 'a secret of the tests, thirty-two bytes long';
  const program = await Program.start(t, ['--store', 'memory', '--jwt-secret', secret]);
  const ann = client(t, program, { token: tokenFor('ann', 2, secret) });
  const { code } = await next(ann, 'state', ({ state }) => state === 'stopped');
  assert.equal(code, 4001);
});
