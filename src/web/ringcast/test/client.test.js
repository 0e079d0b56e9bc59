// What the client does, against a server by script and a clock by hand: nothing here waits.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { Ringcast, RingcastError, uuid } from '../ringcast.js';
import { World, outcome, settle } from './fake.js';

const types = (events) => events.map(([type]) => type);
const offsets = (events) => events.map(([, { offset }]) => offset);

test('addresses: /ws of a host, with name and token', async () => {
  const world = new World({ username: 'ann b', token: async () => 't/1' });
  world.client.connect();
  await settle();
  assert.equal(world.last.url.href, 'ws://a/ws?username=ann+b&token=t%2F1');
  assert.equal(world.last.protocol, 'ringcast.v1');
  for (const [given, wanted] of [
    ['http://h:1', 'ws://h:1/ws'], ['https://h', 'wss://h/ws'],
    ['wss://h/chat/ws?x#y', 'wss://h/chat/ws'],
  ]) {
    const { connections, client } = new World();
    assert.equal(connections.length, 0);
    client.close();
    const made = [];
    const WebSocket = class { constructor(url) { made.push(url); } close() {} };
    const other = new Ringcast(given, { WebSocket });
    other.connect();
    other.close();
    assert.deepEqual(made, [wanted]);
  }
  assert.throws(() => new Ringcast(), RingcastError);
});

test('a publish is fulfilled by its ack', async () => {
  const world = await World.joined();
  const stored = world.room.publish({ a: 1 }, { metadata: { b: 2 } });
  const frame = world.last.take('publish');
  assert.deepEqual(frame, {
    type: 'publish', room: 'r', payload: { a: 1 }, metadata: { b: 2 }, id: frame.id, ref: frame.id,
  });
  assert.match(frame.id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(await outcome(stored), 'pending');
  assert.equal(world.client.outbox.length, 1);
  world.last.ack(frame, 7);
  assert.deepEqual(await stored, { id: frame.id, offset: 7 });
  assert.deepEqual(world.client.outbox, []);
  world.last.ack(frame, 7); // A second one does no harm.
});

test('a message that is seen is stored, whether its ack came or not', async () => {
  const world = await World.joined();
  world.note('message');
  const stored = world.room.publish('x');
  const { id } = world.last.take('publish');
  world.last.message(1, { id, user_id: 'me' });
  assert.deepEqual(await stored, { id, offset: 1 });
  assert.equal(world.take()[0][1].own, true);
});

test('what is not acked goes again, in order, under its id, and once a connection', async () => {
  const world = await World.joined();
  const promises = ['a', 'b', 'c'].map((payload) => world.room.publish(payload));
  const sent = ['a', 'b', 'c'].map(() => world.last.take('publish'));
  world.last.ack(sent[1], 2);
  world.last.end();
  const late = world.room.publish('d'); // While there is no connection.
  assert.deepEqual(world.client.outbox.map(({ payload, sent }) => [payload, sent]),
    [['a', false], ['c', false], ['d', false]]);
  await world.clock.advance(500);
  assert.equal(world.connections.length, 2);
  world.last.open();
  world.last.take('join');
  const again = [0, 0, 0].map(() => world.last.take('publish'));
  assert.deepEqual(again.map(({ payload }) => payload), ['a', 'c', 'd']);
  assert.deepEqual(again.slice(0, 2).map(({ id }) => id), [sent[0].id, sent[2].id]);
  assert.deepEqual(world.last.frames, []);
  again.forEach((frame, at) => world.last.ack(frame, at + 3));
  assert.equal((await Promise.all([...promises, late])).length, 4);
});

test('it resumes after the last offset, and shows nothing twice', async () => {
  const world = await World.joined(5);
  world.note('message', 'joined', 'reset', 'gap');
  [6, 7].forEach((offset) => world.last.message(offset));
  world.last.end();
  await world.clock.advance(500);
  world.last.open();
  const join = world.last.joined();
  assert.deepEqual(join.since, { epoch: 'e1', offset: 7 });
  [6, 7, 8, 8, 9].forEach((offset) => world.last.message(offset));
  const events = world.take();
  assert.deepEqual(types(events), ['message', 'message', 'joined', 'message', 'message']);
  assert.equal(events[2][1].recovered, true);
  assert.deepEqual(offsets(events.filter(([type]) => type === 'message')), [6, 7, 8, 9]);
  assert.deepEqual(world.room.position, { epoch: 'e1', offset: 9 });
});

test('what can not be had again is told: by reset', async () => {
  const world = await World.joined(5);
  world.note('message', 'joined', 'reset');
  world.last.end();
  await world.clock.advance(500);
  world.last.open();
  world.last.joined({ epoch: 'e2', offset: 40, recovered: false });
  world.last.message(41);
  const [[, reset], joined, message] = world.take();
  assert.deepEqual(reset,
    { room: 'r', epoch: 'e2', offset: 40, before: { epoch: 'e1', offset: 5 } });
  assert.equal(joined[0], 'joined');
  assert.deepEqual([message[1].offset, message[1].epoch], [41, 'e2']);
  // And unasked, where offsets begin anew: lower ones are new then.
  world.last.tell({
    type: 'joined', room: 'r', epoch: 'e3', offset: 0, recovered: false, members: 1,
  });
  world.last.message(1);
  assert.deepEqual(types(world.take()), ['reset', 'message']);
  assert.deepEqual(world.room.position, { epoch: 'e3', offset: 1 });
});

test('a gap moves the position', async () => {
  const world = await World.joined(5);
  world.note('gap', 'message');
  world.last.tell({ type: 'gap', room: 'r', from: 6, to: 9 });
  world.last.tell({ type: 'gap', room: 'r', from: 6, to: 9 });
  world.last.message(9);
  world.last.message(10);
  assert.deepEqual(types(world.take()), ['gap', 'message']);
  assert.equal(world.room.position.offset, 10);
});

test('the wait is random up to a bound that doubles, and short after a good time', async () => {
  const world = new World({ backoffMs: 500, backoffMaxMs: 4000 });
  world.note('state');
  world.client.connect();
  const waits = [];
  for (const chance of [0, 0.5, 0.999, 0.5, 0.5, 0.5]) {
    world.chance = chance;
    await settle();
    world.last.end();
    waits.push(world.take().at(-1)[1].retryInMs);
    await world.clock.advance(waits.at(-1));
  }
  assert.deepEqual(waits, [0, 500, 1998, 2000, 2000, 2000]);
  world.last.open();
  await world.clock.advance(100);
  world.last.end(); // Too soon to be trusted.
  assert.equal(world.take().at(-1)[1].retryInMs, 2000);
  await world.clock.advance(2000);
  world.last.open();
  await world.clock.advance(6000);
  world.last.end();
  assert.equal(world.take().at(-1)[1].retryInMs, 250);
});

test('going_away: there until the time has come, then elsewhere at once', async () => {
  const world = await World.joined(3);
  world.note('going_away', 'state');
  const first = world.last;
  first.tell({ type: 'going_away', reconnect_in_ms: 3000 });
  const stored = world.room.publish('meanwhile');
  const frame = first.take('publish');
  await world.clock.advance(2999);
  assert.equal(world.connections.length, 1);
  await world.clock.advance(1);
  assert.equal(world.connections.length, 2);
  assert.equal(first.closedWith, 1000);
  assert.deepEqual(world.take().map(([type, { state }]) => state ?? type),
    ['going_away', 'waiting', 'connecting']);
  world.last.open();
  assert.deepEqual(world.last.joined().since, { epoch: 'e1', offset: 3 });
  const again = world.last.take('publish');
  assert.equal(again.id, frame.id);
  world.last.ack(again, 4);
  assert.equal((await stored).offset, 4);
});

test('going_away: closed before its time, it waits for the time that it was told', async () => {
  const world = await World.joined();
  world.last.tell({ type: 'going_away', reconnect_in_ms: 3000 });
  await world.clock.advance(1000);
  world.last.end(1001, 'the server drains');
  const stored = world.room.publish('kept');
  world.client.wake();
  await world.clock.advance(1999);
  assert.equal(world.connections.length, 1);
  await world.clock.advance(1);
  assert.equal(world.connections.length, 2);
  world.last.open();
  world.last.joined();
  world.last.ack(world.last.take('publish'), 1);
  assert.equal((await stored).offset, 1);
});

test('silence is asked about, and no answer ends the connection', async () => {
  const world = await World.joined();
  const first = world.last;
  await world.clock.advance(24000);
  first.message(1); // Not silent.
  await world.clock.advance(24999);
  assert.deepEqual(first.frames, []);
  await world.clock.advance(1);
  const ping = first.take('ping');
  first.tell({ type: 'pong', ref: ping.ref });
  await world.clock.advance(34999);
  first.take('ping');
  assert.equal(world.client.state, 'open');
  await world.clock.advance(1);
  assert.equal(world.client.state, 'waiting');
  assert.equal(first.closedWith, 1000);
  first.onclose({ code: 1000, reason: '' }); // The old one's end counts no more.
  await world.clock.advance(500);
  assert.equal(world.connections.length, 2);
});

test('a connection that gets no welcome is given up', async () => {
  const world = new World();
  world.client.connect();
  await world.clock.advance(10000);
  assert.equal(world.client.state, 'waiting');
  await world.clock.advance(500);
  assert.equal(world.connections.length, 2);
});

test('wake: no wait is sat out', async () => {
  const world = await World.joined();
  world.chance = 0.999;
  world.last.end();
  world.client.wake();
  await settle();
  assert.equal(world.connections.length, 2);
  world.last.open();
  world.client.wake();
  world.last.take('join');
  world.last.take('ping');
});

test('an error that passes is waited out, and order is kept', async () => {
  const world = await World.joined();
  const promises = ['a', 'b'].map((payload) => world.room.publish(payload));
  const [a, b] = [0, 0].map(() => world.last.take('publish'));
  const refused = { type: 'error', code: 'unavailable', message: 'full' };
  world.last.tell({ ...refused, ref: a.ref });
  world.last.tell({ ...refused, ref: b.ref });
  promises.push(world.room.publish('c'));
  assert.deepEqual(world.last.frames, []);
  await world.clock.advance(1000);
  const again = [0, 0, 0].map(() => world.last.take('publish'));
  assert.deepEqual(again.map(({ payload }) => payload), ['a', 'b', 'c']);
  again.forEach((frame, at) => world.last.ack(frame, at + 1));
  assert.deepEqual((await Promise.all(promises)).map(({ offset }) => offset), [1, 2, 3]);
});

test('an error that does not pass is the promise\'s', async () => {
  const world = await World.joined();
  const promise = outcome(world.room.publish('a'));
  const { ref, id } = world.last.take('publish');
  world.last.tell({ type: 'error', code: 'forbidden', message: 'no', ref });
  const { error } = await promise;
  assert.ok(error instanceof RingcastError);
  assert.deepEqual([error.code, error.message, error.id], ['forbidden', 'no', id]);
});

test('what can not be kept is refused at once', async () => {
  const world = await World.joined(0, { outboxMessages: 2, outboxBytes: 400, messageBytes: 300 });
  const code = async (promise) => (await outcome(promise)).error?.code;
  const id = uuid();
  assert.equal(await code(world.room.publish('x'.repeat(300))), 'too_large');
  assert.equal(await code(world.room.publish('ü'.repeat(90))), 'too_large', 'bytes, not letters');
  assert.equal(await code(world.room.publish(undefined)), 'bad_frame');
  assert.equal(await code(world.room.publish(1, { id: 'x' })), 'bad_frame');
  const kept = world.room.publish(1, { id: id.toUpperCase() });
  assert.equal(world.last.take('publish').id, id);
  assert.equal(await code(world.room.publish(1, { id })), 'bad_frame');
  assert.equal(await code(world.room.publish('x'.repeat(150))), 'outbox_full');
  world.room.publish(2).catch(() => {});
  assert.equal(await code(world.room.publish(3)), 'outbox_full');
  assert.equal(world.client.cancel(id), true);
  assert.equal(world.client.cancel(id), false);
  assert.equal(await code(kept), 'cancelled');
});

test('the message for which the server closes is not sent for ever', async () => {
  const world = await World.joined();
  world.room.publish('small').catch(() => {});
  const big = outcome(world.room.publish('x'.repeat(500)));
  world.last.end(1009, 'too big');
  assert.equal((await big).error.code, 'too_large');
  await world.clock.advance(500);
  world.last.open();
  world.last.take('join');
  assert.equal(world.last.take('publish').payload, 'small');
  assert.deepEqual(world.last.frames, []);
});

test('what was sent too long ago is not sent again: it might be there twice', async () => {
  const world = await World.joined(0, { retryWindowMs: 60000 });
  let failure = null;
  world.room.publish('sent').catch((error) => { failure = error; });
  world.last.end();
  const unsent = world.room.publish('unsent');
  for (let at = 0; at < 4; at += 1) { // No server for a good minute.
    await world.clock.advance(20000);
    if (world.client.state === 'connecting') world.last.end();
  }
  world.client.wake();
  world.last.open();
  await settle();
  assert.equal(failure?.code, 'uncertain');
  world.last.take('join');
  assert.equal(world.last.take('publish').payload, 'unsent');
  assert.equal(await outcome(unsent), 'pending');
});

test('last: what was said before comes first, once', async () => {
  const world = new World();
  world.note('joined', 'message', 'reset');
  world.client.join('r', { last: 3 });
  world.client.connect();
  await settle();
  world.last.open();
  world.last.joined({ offset: 10 });
  world.last.message(11); // Comes before the second answer, and again in the replay.
  assert.deepEqual(world.last.joined().since, { epoch: 'e1', offset: 7 });
  [8, 9, 10, 11, 12].forEach((offset) => world.last.message(offset));
  const events = world.take();
  assert.deepEqual(types(events), ['joined', ...Array(5).fill('message')]);
  assert.deepEqual(offsets(events.slice(1)), [8, 9, 10, 11, 12]);
  // After a reconnect it goes on where it was.
  world.last.end();
  await world.clock.advance(500);
  world.last.open();
  assert.deepEqual(world.last.joined().since, { epoch: 'e1', offset: 12 });
  assert.deepEqual(world.last.frames, []);
});

test('last: if it can not be had, nothing is lost of what is new', async () => {
  const world = new World();
  world.note('message', 'reset');
  const room = world.client.join('r', { last: 100 });
  world.client.connect();
  await settle();
  world.last.open();
  world.last.joined({ offset: 10 });
  world.last.message(11);
  const join = world.last.take('join');
  assert.equal(join.since.offset, 0);
  world.last.tell({
    type: 'joined', room: 'r', epoch: 'e1', offset: 11, recovered: false, members: 1, ref: join.ref,
  });
  world.last.message(12);
  const events = world.take();
  assert.deepEqual(types(events), ['message', 'message']);
  assert.deepEqual(offsets(events), [11, 12]);
  assert.equal(room.position.offset, 12);
});

test('without echo the ack takes the place of the message', async () => {
  const world = await World.joined(3);
  world.note('message');
  const stored = world.room.publish('quiet', { echo: false });
  const frame = world.last.take('publish');
  assert.equal(frame.echo, false);
  world.last.ack(frame, 4);
  await stored;
  assert.equal(world.room.position.offset, 4);
  world.last.message(4, { id: frame.id, user_id: 'me' }); // A resume would bring it.
  world.last.message(5);
  assert.deepEqual(offsets(world.take()), [5]);
});

test('many rooms on one connection; a room that was left is silent', async () => {
  const world = await World.joined();
  world.note('message');
  const other = world.client.join('s');
  assert.equal(world.client.join('s'), other);
  world.last.joined();
  world.last.message(1, { room: 's' });
  world.last.message(1);
  assert.deepEqual(world.take().map(([, { room }]) => room), ['s', 'r']);
  other.leave();
  assert.equal(world.last.take('leave').room, 's');
  world.last.message(2, { room: 's' });
  assert.deepEqual(world.take(), []);
  // Joined anew at once: what is still of the old membership does not count.
  const anew = world.client.join('s');
  world.last.message(3, { room: 's' });
  world.last.joined({ offset: 3 });
  world.last.message(4, { room: 's' });
  assert.deepEqual(offsets(world.take()), [4]);
  await anew.ready;
  assert.equal((await outcome(other.ready)).value, other);
  assert.deepEqual([...world.client.rooms.keys()], ['r', 's']);
});

test('a join that is refused: for good, or tried again', async () => {
  const world = await World.joined();
  world.note('refused', 'error');
  const refused = world.client.join('@x');
  const { ref } = world.last.take('join');
  world.last.tell({ type: 'error', code: 'forbidden', message: 'not yours', ref });
  assert.equal((await outcome(refused.ready)).error.code, 'forbidden');
  assert.deepEqual([refused.state, world.client.rooms.has('@x')], ['refused', false]);
  assert.deepEqual(types(world.take()), ['refused']);

  const later = world.client.join('later');
  const first = world.last.take('join');
  world.last.tell({ type: 'error', code: 'unavailable', message: 'wait', ref: first.ref });
  await world.clock.advance(500);
  world.last.joined();
  assert.equal((await outcome(later.ready)).value, later);
  assert.deepEqual(world.take(), []);
});

test('presence, members, signals, pending, degraded', async () => {
  const world = await World.joined();
  world.note('presence', 'signal', 'pending', 'degraded');
  const asked = world.room.members();
  const { ref } = world.last.take('members');
  const members = [{ user_id: 'u', username: 'ann' }];
  world.last.tell({ type: 'members', room: 'r', members, count: 1, ref });
  assert.deepEqual(await asked, { members, count: 1 });
  assert.equal(world.room.signal({ typing: true }), true);
  assert.deepEqual(world.last.take('signal').payload, { typing: true });
  world.last.tell({ type: 'presence', room: 'r', event: 'join', user_id: 'v', members: 2 });
  world.last.tell({ type: 'signal', room: 'r', user_id: 'v', payload: 1 });
  world.last.tell({ type: 'pending', room: 'r', id: 'i', user_id: 'v', payload: 1 });
  world.last.tell({ type: 'degraded', degraded: true, reason: 'Redis is away' });
  assert.equal(world.room.count, 2);
  assert.deepEqual(types(world.take()), ['presence', 'signal', 'pending', 'degraded']);
  // Another instance knows of nothing of the kind.
  const lost = world.room.members();
  world.last.end();
  assert.equal((await outcome(lost)).error.code, 'disconnected');
  assert.equal(world.room.signal(1), false);
  assert.equal((await outcome(world.room.members())).error.code, 'disconnected');
  await world.clock.advance(500);
  world.last.open();
  assert.deepEqual(world.take(), [['degraded', { degraded: false, reason: undefined }]]);
});

test('round trips are measured', async () => {
  const world = await World.joined();
  const ping = world.client.ping();
  await world.clock.advance(12);
  world.last.tell({ type: 'pong', ref: world.last.take('ping').ref });
  assert.equal(await ping, 12);
  assert.equal(world.client.roundTripMs, 12);
});

test('tokens: asked for before each connection, refreshed on one', async () => {
  let count = 0;
  const world = new World({ token: async () => `t${++count}` });
  world.note('error');
  world.client.connect();
  await settle();
  assert.equal(world.last.url.searchParams.get('token'), 't1');
  world.last.open();
  const refreshed = world.client.refresh();
  await settle();
  const { token, ref } = world.last.take('refresh');
  assert.equal(token, 't2');
  assert.equal(await outcome(refreshed), 'pending');
  world.last.tell({ type: 'refreshed', ref });
  assert.equal(await refreshed, true);
  world.last.end(4001, 'expired');
  await world.clock.advance(500);
  assert.equal(world.last.url.searchParams.get('token'), 't3');

  const failing = new World({ token: async () => { throw new Error('no login'); } });
  failing.note('error');
  failing.client.connect();
  await settle();
  assert.match(failing.take()[0][1].message, /no login/);
  assert.equal(failing.client.state, 'waiting');
  failing.client.close();
});

/** A token that ends so many ms after the world's beginning; nobody checks it here. */
const tokenUntil = (world, ms, name = '') => {
  const claims = { sub: 'ann', name: `Ännn${name}??>`, exp: (world.began + ms) / 1000 };
  return `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.sig`;
};

test('tokens: a new one is asked for before the old one ends', async () => {
  let ends = 600_000;
  const given = [];
  const world = new World({
    token: async () => {
      given.push(tokenUntil(world, ends));
      return given.at(-1);
    },
  });
  world.began = world.clock.now();
  world.note('error', 'state');
  world.client.connect();
  await settle();
  world.last.open({ heartbeat_ms: 0 });
  world.take();
  const answer = (frame) => {
    const { ref } = world.last.frames.splice(0).find(({ type }) => type === 'refresh');
    world.last.tell({ ref, ...frame });
  };
  const pongs = () => {
    for (const { type, ref } of world.last.frames) {
      if (type === 'ping') world.last.tell({ type: 'pong', ref });
    }
    world.last.frames = world.last.frames.filter(({ type }) => type !== 'ping');
  };
  const wait = async (ms) => {
    for (let left = ms; left > 0; left -= 5000) {
      await world.clock.advance(Math.min(5000, left));
      pongs();
    }
  };
  await wait(539_000);
  assert.deepEqual(world.last.frames, [], 'not before its time');
  ends = 1_200_000;
  await wait(2_000);
  assert.equal(given.length, 2);
  assert.equal(world.last.frames[0].token, given[1]);
  answer({ type: 'refreshed' });
  // The next one is asked for by the new one's end. It is refused: again, in half of what is left.
  await wait(598_000);
  assert.deepEqual(world.last.frames, []);
  await wait(2_000);
  answer({ type: 'error', code: 'unauthorized', message: 'no' });
  await settle();
  assert.equal(world.take()[0][1].code, 'unauthorized');
  await wait(35_000);
  assert.equal(world.last.frames.filter(({ type }) => type === 'refresh').length, 1);
  ends = 10_000_000_000; // Longer than a timer can be.
  answer({ type: 'error', code: 'unauthorized', message: 'no' });
  await wait(20_000);
  answer({ type: 'refreshed' });
  await wait(100_000);
  assert.deepEqual(world.last.frames, []);
  assert.equal(world.connections.length, 1);
  world.client.close();
  assert.equal(world.clock.timers, 0);
});

test('tokens: what is no token with an end, or only a text, is not renewed', async () => {
  for (const token of [() => 'opaque', () => 'a.b.c', () => `a.${btoa('{}')}.c`, 'text']) {
    const world = await World.joined(0, { token });
    const before = world.clock.timers;
    assert.equal(before, 1, 'the heartbeat alone');
    world.client.close();
  }
  const world = new World({});
  world.began = world.clock.now();
  const text = await World.joined(0, { token: tokenUntil(world, 60_000) });
  assert.equal(text.clock.timers, 1);
  const renewed = text.client.refresh('another');
  await settle();
  const { ref } = text.last.take('refresh');
  text.last.tell({ type: 'error', code: 'unauthorized', message: 'no', ref });
  assert.equal((await outcome(renewed)).error.code, 'unauthorized');
});

test('a room that a new token does not allow is told as refused', async () => {
  const world = await World.joined();
  world.note('refused');
  world.last.tell({ type: 'left', room: 'r' });
  const [[, told]] = world.take();
  assert.deepEqual([told.room, told.code], ['r', 'forbidden']);
  assert.equal(world.room.state, 'refused');
  assert.equal(world.client.rooms.size, 0);
  // One that was left and joined again is not meant by the answer to the leave.
  const again = world.client.join('r');
  world.last.tell({ type: 'left', room: 'r' });
  assert.equal(again.state, 'joining');
  assert.deepEqual(world.take(), []);
});

test('who is kicked, or has a token that is no good, stays away', async () => {
  for (const [code, options] of [[4003, {}], [4001, { token: 't' }]]) {
    const world = await World.joined(0, options);
    world.note('state');
    const kept = world.room.publish('kept');
    world.last.end(code, 'so');
    assert.deepEqual(world.take(), [['state', { state: 'stopped', code, reason: 'so' }]]);
    await world.clock.advance(100000);
    assert.equal(world.connections.length, 1);
    assert.equal(world.clock.timers, 0);
    // Unless the user wants it.
    world.client.connect();
    await settle();
    world.last.open();
    world.last.joined();
    world.last.ack(world.last.take('publish'), 1);
    assert.equal((await kept).offset, 1);
  }
});

test('close ends all: promises, timers, rooms', async () => {
  const world = await World.joined();
  const waiting = world.client.join('never').ready;
  const ends = [world.room.publish('a'), world.client.ping(), waiting].map(outcome);
  world.client.close();
  world.client.close();
  const codes = (await Promise.all(ends)).map(({ error }) => error.code);
  assert.deepEqual(codes, ['closed', 'disconnected', 'closed']);
  assert.equal((await outcome(world.room.publish('b'))).error.code, 'closed');
  assert.equal(world.last.closedWith, 1000);
  assert.equal(world.clock.timers, 0);
  assert.throws(() => world.client.connect(), RingcastError);
  assert.throws(() => world.client.join('r'), RingcastError);
});

test('what is no frame is passed by', async () => {
  const world = await World.joined();
  world.note('error', 'message');
  for (const text of ['', '{', '1', 'null', '[]', '{}', '{"type":"toString"}', '{"type":"new"}']) {
    world.last.tell(text);
  }
  world.last.tell({ type: 'message', room: 'elsewhere', offset: 1, id: 'x', user_id: 'u' });
  world.last.tell({ type: 'message', room: '@me', offset: 1, id: 'x', user_id: 'u', payload: 1 });
  world.last.tell({ type: 'error', code: 'bad_json', message: 'what?' });
  assert.deepEqual(types(world.take()), ['error', 'error', 'message', 'error']);
  assert.equal(world.client.state, 'open');
});

test('a listener that fails harms nobody', async () => {
  const world = await World.joined();
  const seen = [];
  const failed = [];
  globalThis.reportError = (error) => failed.push(error.message);
  world.room.on('message', () => { throw new Error('mine'); });
  const off = world.room.on('message', ({ offset }) => seen.push(offset));
  world.last.message(1);
  delete globalThis.reportError;
  assert.deepEqual(failed, ['mine']);
  off();
  world.room.off('message', () => {});
  assert.deepEqual(seen, [1]);
  assert.equal(world.room.position.offset, 1);
});

test('history is asked of the same host, and null where there is none', async () => {
  const world = await World.joined(9, { token: 'tok' });
  const asked = [];
  const answers = [
    new Response('{"error":{"code":"not_found","message":""}}', { status: 404 }),
    new Response('{"epoch":"e1","messages":[]}'),
    new Response('{"error":{"code":"unavailable","message":"later"}}', { status: 503 }),
  ];
  const before = globalThis.fetch;
  globalThis.fetch = async (url, { headers }) => {
    asked.push([url.href, headers.Authorization]);
    return answers.shift();
  };
  try {
    const other = world.client.join('a/b ü');
    world.last.joined();
    assert.equal(await world.room.history({ before: 5, limit: 2 }), null);
    assert.deepEqual(await other.history(), { epoch: 'e1', messages: [] });
    assert.equal((await outcome(world.room.history())).error.code, 'unavailable');
  } finally {
    globalThis.fetch = before;
  }
  assert.deepEqual(asked.slice(0, 2), [
    ['http://a/api/rooms/r/messages?epoch=e1&before=5&limit=2', 'Bearer tok'],
    ['http://a/api/rooms/a%2Fb%20%C3%BC/messages?epoch=e1', 'Bearer tok'],
  ]);
});

test('the package exports what its types say', async () => {
  const exported = Object.keys(await import('ringcast')).sort();
  const types = await readFile(new URL('../ringcast.d.ts', import.meta.url), 'utf8');
  const declared = [...types.matchAll(/^export (?:const|function|class) (\w+)/gm)];
  assert.deepEqual(declared.map(([, name]) => name).sort(), exported);
  assert.ok(exported.includes('connect'));
});
