// A server by script and a clock by hand: what happens when is the test's to say.

import assert from 'node:assert/strict';
import { Ringcast } from '../ringcast.js';

/** Lets everything run that waits for nothing. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

class Clock {
  #at = 1_000_000;
  #timers = new Map();
  #last = 0;

  now = () => this.#at;

  setTimeout = (run, ms) => {
    this.#timers.set(++this.#last, { at: this.#at + ms, run });
    return this.#last;
  };

  clearTimeout = (timer) => { this.#timers.delete(timer); };

  get timers() { return this.#timers.size; }

  /** Time goes on by so many milliseconds, timer by timer. */
  async advance(ms) {
    const end = this.#at + ms;
    for (;;) {
      await settle();
      const due = [...this.#timers].filter(([, { at }]) => at <= end);
      if (due.length === 0) break;
      const [timer, { at, run }] = due.reduce((a, b) => (b[1].at < a[1].at ? b : a));
      this.#timers.delete(timer);
      this.#at = Math.max(this.#at, at);
      run();
    }
    this.#at = end;
    await settle();
  }
}

/** One connection, seen from the server's side. */
class Connection {
  readyState = 0;
  onopen = null;
  onmessage = null;
  onerror = null;
  onclose = null;
  frames = []; // What the client has sent, and the test has not taken.
  closedWith = null;

  constructor(url, protocol) {
    this.url = new URL(url);
    this.protocol = protocol;
  }

  // --- The client's side ---

  send(text) {
    assert.equal(this.readyState, 1, 'sent on a socket that is not open');
    this.frames.push(JSON.parse(text));
  }

  close(code) {
    this.readyState = 3;
    this.closedWith = code;
  }

  // --- The server's ---

  open(welcome = {}) {
    this.readyState = 1;
    this.onopen({});
    this.tell({
      type: 'welcome', protocol: 'ringcast.v1', client_id: 'c', user_id: 'me', instance_id: 'a',
      shard: 0, heartbeat_ms: 25000, ...welcome,
    });
  }

  tell(frame) {
    this.onmessage({ data: typeof frame === 'string' ? frame : JSON.stringify(frame) });
  }

  end(code = 1006, reason = '') {
    this.readyState = 3;
    this.onclose({ code, reason });
  }

  /** The next frame that the client has sent; it must be of that type. */
  take(type) {
    const frame = this.frames.shift();
    assert.equal(frame?.type, type, `${type} is expected, not ${JSON.stringify(frame)}`);
    return frame;
  }

  /** Answers the join that comes next. */
  joined(more = {}) {
    const join = this.take('join');
    const { room, since, ref } = join;
    const answer = { type: 'joined', room, epoch: 'e1', offset: 0, members: 1, ref };
    const resumed = since ? { offset: since.offset, recovered: true } : {};
    this.tell({ ...answer, ...resumed, ...more });
    return join;
  }

  message(offset, more = {}) {
    this.tell({
      type: 'message', room: 'r', offset, id: `id-${offset}`, user_id: 'u', payload: offset,
      sent_at: '2026-01-01T00:00:00.000Z', ...more,
    });
  }

  ack(publish, offset) {
    this.tell({ type: 'ack', ref: publish.ref, id: publish.id, offset });
  }
}

/** A client, its clock, its chance, and the connections that it makes. */
export class World {
  clock = new Clock();
  connections = [];
  chance = 0.5;
  events = [];

  constructor(options = {}) {
    const connections = this.connections;
    class WebSocket extends Connection {
      constructor(url, protocol) {
        super(url, protocol);
        connections.push(this);
      }
    }
    const random = () => this.chance;
    this.client = new Ringcast('ws://a', { WebSocket, clock: this.clock, random, ...options });
  }

  /** Notes events of the client, its rooms' too, as `[type, event]`. */
  note(...types) {
    for (const type of types) this.client.on(type, (event) => this.events.push([type, event]));
  }

  take() { return this.events.splice(0); }

  get last() { return this.connections.at(-1); }

  /** Connected, and in room `r` at `offset`. */
  static async joined(offset = 0, options = {}, joinOptions = {}) {
    const world = new World(options);
    world.room = world.client.join('r', joinOptions);
    world.client.connect();
    await settle();
    world.last.open();
    world.last.joined({ offset });
    await settle();
    return world;
  }
}

/** How a promise ended, without waiting for it. */
export async function outcome(promise) {
  let ended = 'pending';
  promise.then((value) => { ended = { value }; }, (error) => { ended = { error }; });
  await settle();
  return ended;
}
