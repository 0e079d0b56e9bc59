// The client of the protocol ringcast.v1, for browsers and Node: one module, no dependency.
//
// It holds one connection, comes back when that is lost, and keeps what was asked of it meanwhile:
// rooms are joined again where they were left, publishes are sent again under their own id. It is
// not a store: what waits in it is gone with the page or the process. It shows nothing.
//
// Invariants:
// - A room's `message` events bear rising offsets within an epoch, none twice. What was left out is
//   told before the next one, by `gap` or `reset`.
// - A publish is settled once: stored, or refused for good, or given up by whoever made it. Until
//   then it is kept, in order, and goes out once on each connection.
// - What can grow has a bound: the outbox by messages and bytes, questions under way, ids
//   remembered, the wait between two tries.

/** The subprotocol that is spoken. */
export const PROTOCOL = 'ringcast.v1';

const DEFAULTS = {
  outboxMessages: 1000,
  outboxBytes: 4 * 1024 * 1024,
  messageBytes: 64 * 1024, // The server's own default of --max-message-bytes.
  backoffMs: 500,
  backoffMaxMs: 20000,
  connectTimeoutMs: 10000,
  pongTimeoutMs: 10000,
  heartbeatMs: 25000,
  // Below the server's --dedupe-window: a retry that comes later could make a second message.
  retryWindowMs: 9 * 60 * 1000,
};

const IDS_REMEMBERED_MAX = 2000;
const QUESTIONS_MAX = 256;
const REWIND_MESSAGES_MAX = 1000;
// A connection that lasted so long was a good one: the next loss begins with a short wait.
const SETTLED_MS = 5000;
const GOING_AWAY_MS_MAX = 10 * 60 * 1000;
// So long before a token ends the next one is asked for; of a short one, half its time before.
const RENEW_MS = 60 * 1000;
const RENEW_MS_MIN = 1000;
const TIMER_MS_MAX = 24 * 60 * 60 * 1000; // A longer one would end at once.
// Errors that another try may be spared of.
const PASSING = new Set(['unavailable', 'overloaded', 'rate_limited', 'internal']);
const CLOSE = { tooBig: 1009, tryLater: 1013, unauthorized: 4001, kicked: 4003 };

const CLOCK = {
  now: () => Date.now(), // Goes on while a machine sleeps.
  precise: () => performance.now(),
  setTimeout: (run, ms) => setTimeout(run, ms),
  clearTimeout: (timer) => clearTimeout(timer),
};

/** Why something was not done: `code` is the server's, or one of this client's own. */
export class RingcastError extends Error {
  constructor(code, message, id) {
    super(message);
    this.name = 'RingcastError';
    this.code = code;
    if (id !== undefined) this.id = id;
  }
}

/** A random UUID. `crypto.randomUUID` is there on safe origins only; this is not so choosy. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Connects: `new Ringcast(url, options)` and `connect()` in one. */
export function connect(url, options) {
  const client = new Ringcast(url, options);
  client.connect();
  return client;
}

// --- Events -----------------------------------------------------------------------------------

class Emitter {
  #listeners = new Map();

  /** Calls `listener` at each event of that type; the returned function ends that. */
  on(type, listener) {
    const all = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, all.add(listener));
    return () => this.off(type, listener);
  }

  off(type, listener) {
    this.#listeners.get(type)?.delete(listener);
  }

  _emit(type, event) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(event);
      } catch (error) {
        // A listener's fault is its own, and seen; it must not end what the client is at.
        if (typeof reportError === 'function') reportError(error);
        else queueMicrotask(() => { throw error; });
      }
    }
  }
}

/** Keeps the last so many. */
class Remembered extends Set {
  add(value) {
    super.add(value);
    if (this.size > IDS_REMEMBERED_MAX) this.delete(this.values().next().value);
    return this;
  }
}

// --- A room -----------------------------------------------------------------------------------

/** A room that was joined, or is about to be. Made by `client.join`. */
export class Room extends Emitter {
  #client;
  #options;
  #ref = null; // Of the join that is not answered.
  #tries = 0;
  #retry = null;
  #rewind = null; // Messages held back while the join for `last` is under way.
  #settled = null;

  constructor(client, name, options) {
    super();
    this.#client = client;
    this.#options = options;
    this.name = name;
    this.state = 'joining';
    this.position = options.since ?? null;
    this.count = 0;
    this.ready = new Promise((resolve, reject) => { this.#settled = { resolve, reject }; });
    this.ready.catch(() => {}); // Who does not ask is not told by a crash.
  }

  publish(payload, options) {
    return this.#client.publish(this.name, payload, options);
  }

  /** Tells the members now, and nobody later. False if it could not even be sent. */
  signal(payload) {
    return this.state === 'joined'
      && this.#client._send({ type: 'signal', room: this.name, payload });
  }

  /** Who is there: `{ members, count }`. */
  async members() {
    const { members, count } = await this.#client._ask({ type: 'members', room: this.name });
    return { members, count };
  }

  /** Older messages from the server's store; null where it keeps none for that. */
  history(query = {}) {
    return this.#client._history(this.name, { epoch: this.position?.epoch, ...query });
  }

  leave() {
    if (this.state === 'left' || this.state === 'refused') return;
    this._end('left', new RingcastError('left', 'the room was left'));
    this.#client._forget(this);
  }

  /** Called on each new connection, and when a join is to be tried again. */
  _join() {
    this.#client._clock.clearTimeout(this.#retry);
    this.state = 'joining';
    this.#rewind = null;
    this.#ref = this.#client._ref('j');
    const { username, presence } = this.#options;
    const join = { type: 'join', room: this.name, username, presence, ref: this.#ref };
    if (this.position !== null) join.since = this.position;
    this.#client._send(join);
  }

  /** The connection is gone. */
  _lost() {
    this.#client._clock.clearTimeout(this.#retry);
    this.#ref = null;
    this.#release();
    this.state = 'joining';
  }

  /** The server has taken us out of it. */
  _removed(message) {
    const error = new RingcastError('forbidden', message);
    this._end('refused', error);
    this.#tell('refused', { type: 'error', room: this.name, code: error.code, message });
  }

  _end(state, error) {
    this.#client._clock.clearTimeout(this.#retry);
    this.#ref = null;
    this.state = state;
    this.#settled.reject(error);
  }

  _on(frame) {
    switch (frame.type) {
      case 'joined': return this.#onJoined(frame);
      case 'message': return this.#onMessage(frame);
      case 'gap': return this.#onGap(frame);
      case 'presence':
        this.count = frame.members;
        return this.#tell('presence', frame);
      default: return this.state === 'joined' ? this.#tell(frame.type, frame) : undefined;
    }
  }

  /** Whether an error was the answer to this room's join. */
  _refused(frame) {
    if (this.#ref === null || frame.ref !== this.#ref) return false;
    this.#ref = null;
    if (PASSING.has(frame.code)) {
      const wait = this.#client._jitter(this.#tries++);
      this.#retry = this.#client._clock.setTimeout(() => this.#client._rejoin(this), wait);
      return true;
    }
    this._end('refused', new RingcastError(frame.code, frame.message));
    this.#client._forget(this, false);
    this.#tell('refused', frame);
    return true;
  }

  #onJoined(frame) {
    const { ref, epoch, offset, members, recovered } = frame;
    if (ref !== undefined && ref !== this.#ref) return; // Of a membership that was left.
    const rewinding = this.#rewind !== null && ref !== undefined;
    if (ref !== undefined) this.#ref = null;
    if (members !== undefined) this.count = members;
    const before = this.position;
    if (rewinding) {
      // What was held back comes again, behind what came before it; or not at all.
      if (recovered === true) this.#rewind = null;
      else this.#release();
    } else {
      this.#release(); // A new epoch in the midst of it.
    }
    // What was shown is not shown again, though a rewind that was given up brings it.
    const goesOn = recovered === true && !rewinding && before?.epoch === epoch;
    this.position = { epoch, offset: goesOn ? Math.max(offset, before.offset) : offset };
    this.#tries = 0;
    const first = this.state !== 'joined';
    this.state = 'joined';
    if (recovered === false && !rewinding) {
      this.#tell('reset', { room: this.name, epoch, offset, before });
    }
    const last = this.#options.last ?? 0;
    if (recovered === undefined && last > 0 && offset > 0 && before === null) {
      return this.#rewindBy(Math.min(last, offset), first, frame);
    }
    if (first) this.#ready(frame);
  }

  /** Joins again from further back: what was said lately comes as messages do. */
  #rewindBy(count, first, frame) {
    this.#rewind = [];
    this.#ref = this.#client._ref('j');
    const { username, presence } = this.#options;
    const { epoch, offset } = this.position;
    const since = { epoch, offset: offset - count };
    const room = this.name;
    this.#client._send({ type: 'join', room, username, presence, since, ref: this.#ref });
    if (first) this.#ready(frame);
  }

  #ready(frame) {
    this.#settled.resolve(this);
    this.#tell('joined', frame);
  }

  /** Hands on what was held back for a rewind that is not to be. */
  #release() {
    const held = this.#rewind ?? [];
    this.#rewind = null;
    held.forEach((frame) => this.#onMessage(frame));
  }

  #onMessage(frame) {
    if (this.state !== 'joined') return;
    if (this.#rewind !== null) {
      if (this.#rewind.length < REWIND_MESSAGES_MAX) return void this.#rewind.push(frame);
      this.#release();
    }
    const { epoch, offset } = this.position;
    if (frame.offset <= offset) return;
    this.position = { epoch, offset: frame.offset };
    if (this.#client._isQuiet(frame.id)) return;
    this.#tell('message', { ...frame, epoch, own: this.#client._isOwn(frame) });
  }

  #onGap(frame) {
    if (this.state !== 'joined' || frame.to <= this.position.offset) return;
    this.#release();
    this.position = { epoch: this.position.epoch, offset: frame.to };
    this.#tell('gap', { ...frame, epoch: this.position.epoch });
  }

  /** An own message without echo is stored: nothing else will come in its place. */
  _skip(offset) {
    if (this.state === 'joined' && this.#rewind === null && offset === this.position.offset + 1) {
      this.position = { epoch: this.position.epoch, offset };
    }
  }

  #tell(type, event) {
    this._emit(type, event);
    this.#client._emit(type, event);
  }
}

// --- The client -------------------------------------------------------------------------------

/** One connection to a ringcast, and all that is to outlive it. */
export class Ringcast extends Emitter {
  #url;
  #options;
  #socket = null; // The one whose events count.
  #connection = 0; // Its number.
  #tries = 0; // Failed ones, since the last good connection.
  #retry = null; // The timer of the next try.
  #opening = null; // The timer by which there must be a `welcome`.
  #beat = null; // The timer of the heartbeat.
  #renewal = null; // The timer of the next token.
  #moveAt = null; // When `going_away` wants us elsewhere.
  #openedAt = 0;
  #heardAt = 0;
  #heartbeatMs;
  #rooms = new Map();
  #outbox = new Map(); // id -> what is not settled, in the order in which it was published.
  #outboxBytes = 0;
  #hold = null; // The timer until which nothing is published, after an error that passes.
  #holds = 0;
  #questions = new Map(); // ref -> who asked.
  #refs = 0;
  #own = new Remembered();
  #quiet = new Remembered(); // Own ids whose message is not to be shown: `echo: false`.
  #random;
  #unwatch = () => {};

  constructor(url, options = {}) {
    super();
    this.#options = { ...DEFAULTS, ...options };
    this.#url = webSocketUrl(url ?? globalThis.location?.href, url === undefined);
    this.#random = options.random ?? Math.random;
    this._clock = options.clock ?? CLOCK;
    this.#heartbeatMs = this.#options.heartbeatMs;
    this.state = 'idle';
    this.welcome = null;
    this.degraded = false;
    this.roundTripMs = null;
  }

  get userId() { return this.welcome?.user_id ?? null; }

  /** What is not settled yet, oldest first: `{ id, room, payload, sent }`. */
  get outbox() {
    return Array.from(this.#outbox.values(), ({ id, room, payload, sentOn }) =>
      ({ id, room, payload, sent: sentOn !== 0 && sentOn === this.#connection }));
  }

  /** Connects, if it is not about to: the first time, and after `stopped`. */
  connect() {
    if (this.state === 'closed') throw new RingcastError('closed', 'this client was closed');
    if (this.state !== 'idle' && this.state !== 'stopped') return;
    if (!this.#webSocket()) {
      throw new RingcastError('bad_frame', 'no WebSocket here: give one as the option WebSocket');
    }
    this.#watch();
    this.#tries = 0;
    this.#open();
  }

  /** Ends it for good. What is not settled is refused with `closed`. */
  close() {
    if (this.state === 'closed') return;
    this.#unwatch();
    this.#drop('closed');
    this.#setState('closed');
    const error = new RingcastError('closed', 'this client was closed');
    for (const room of this.#rooms.values()) room._end('left', error);
    this.#rooms.clear();
    for (const id of [...this.#outbox.keys()]) this.#refuse(id, 'closed', error.message);
  }

  join(name, options = {}) {
    if (this.state === 'closed') throw new RingcastError('closed', 'this client was closed');
    const known = this.#rooms.get(name);
    if (known) return known;
    const room = new Room(this, name, { username: this.#options.username, ...options });
    this.#rooms.set(name, room);
    if (this.#isOpen()) room._join();
    return room;
  }

  /** The rooms that are joined or about to be, by name. */
  get rooms() { return new Map(this.#rooms); }

  /** Publishes; fulfilled with `{ id, offset }` once it is stored. It is kept until then. */
  publish(room, payload, { metadata, echo, id = uuid() } = {}) {
    const key = String(id).toLowerCase();
    const refuse = (code, message) => Promise.reject(new RingcastError(code, message, key));
    if (this.state === 'closed') return refuse('closed', 'this client was closed');
    if (!UUID.test(key)) return refuse('bad_frame', 'the id must be a UUID');
    if (this.#outbox.has(key)) return refuse('bad_frame', 'a message with this id waits already');
    const frame = { type: 'publish', room, payload, metadata, echo, id: key, ref: key };
    const text = JSON.stringify(frame);
    if (JSON.stringify(payload) === undefined) {
      return refuse('bad_frame', 'the payload must be a value that JSON has');
    }
    const bytes = utf8Length(text);
    const { messageBytes, outboxMessages, outboxBytes } = this.#options;
    if (bytes > messageBytes) return refuse('too_large', `at most ${messageBytes} bytes a message`);
    if (this.#outbox.size >= outboxMessages || this.#outboxBytes + bytes > outboxBytes) {
      return refuse('outbox_full', 'too much waits to be stored; try again later');
    }
    this.#own.add(key);
    if (echo === false) this.#quiet.add(key);
    return new Promise((resolve, reject) => {
      const kept = { id: key, room, payload, text, bytes, echo, resolve, reject };
      this.#outbox.set(key, { ...kept, sentOn: 0, firstSentAt: null });
      this.#outboxBytes += bytes;
      if (this.#isOpen() && this.#hold === null) this.#push(this.#outbox.get(key));
    });
  }

  /** Gives up on a message that is not settled. It may be stored all the same if it was sent. */
  cancel(id) {
    return this.#refuse(String(id).toLowerCase(), 'cancelled', 'it was given up');
  }

  /** Measures a round trip, in milliseconds. */
  async ping() {
    const now = this._clock.precise ?? this._clock.now;
    const began = now();
    await this._ask({ type: 'ping' });
    this.roundTripMs = now() - began;
    return this.roundTripMs;
  }

  /**
   * Sends a new token for this connection: the one given, or what the `token` option gives. True
   * once the server has taken it; false where there is no connection.
   */
  async refresh(token) {
    if (token !== undefined && typeof this.#options.token !== 'function') {
      this.#options.token = token;
    }
    const fresh = token ?? await this.#token();
    if (!this.#isOpen()) return false;
    const mine = this.#connection;
    await this._ask({ type: 'refresh', token: fresh });
    if (mine === this.#connection) this.#armRenewal(fresh);
    return true;
  }

  /** Looks whether the connection is alive, or tries at once instead of at the end of the wait. */
  wake() {
    if (this.state === 'open') return this.#probe();
    if (this.state !== 'waiting' || this.#moveAt !== null) return;
    this._clock.clearTimeout(this.#retry);
    this.#open();
  }

  // --- What rooms need of it (not for users) ---

  _ref(kind) { return `${kind}${++this.#refs}`; }

  _send(frame) {
    if (!this.#isOpen()) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  _ask(frame) {
    const ref = this._ref('q');
    if (this.#questions.size >= QUESTIONS_MAX) {
      return Promise.reject(new RingcastError('overloaded', 'too many questions under way'));
    }
    if (!this._send({ ...frame, ref })) {
      return Promise.reject(new RingcastError('disconnected', 'there is no connection'));
    }
    return new Promise((resolve, reject) => this.#questions.set(ref, { resolve, reject }));
  }

  async _history(room, query) {
    const url = new URL(this.#url);
    url.protocol = url.protocol === 'wss:' ? 'https:' : 'http:';
    url.search = '';
    const name = encodeURIComponent(room);
    url.pathname = url.pathname.replace(/\/ws$/, `/api/rooms/${name}/messages`);
    for (const [key, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(key, value);
    }
    const token = await this.#token();
    const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
    const answer = await fetch(url, { headers });
    if (answer.status === 404 || answer.status === 501) return null;
    const body = await answer.json();
    if (answer.ok) return body;
    throw new RingcastError(body.error?.code ?? 'internal', body.error?.message ?? 'no history');
  }

  _forget(room, tell = true) {
    if (this.#rooms.get(room.name) === room) this.#rooms.delete(room.name);
    if (tell) this._send({ type: 'leave', room: room.name });
  }

  _rejoin(room) {
    if (this.#isOpen() && this.#rooms.get(room.name) === room) room._join();
  }

  _isOwn(frame) { return this.#own.has(frame.id) || frame.user_id === this.userId; }

  _isQuiet(id) { return this.#quiet.has(id); }

  /** Full jitter: anything up to the bound, so that many clients do not come back at once. */
  _jitter(tries) {
    const { backoffMs, backoffMaxMs } = this.#options;
    return this.#random() * Math.min(backoffMaxMs, backoffMs * 2 ** Math.min(tries, 16));
  }

  // --- The connection ---

  #isOpen() { return this.#socket !== null && this.#socket.readyState === 1; }

  #setState(state, more = {}) {
    this.state = state;
    this._emit('state', { state, ...more });
  }

  #webSocket() { return this.#options.WebSocket ?? globalThis.WebSocket; }

  async #token() {
    const { token } = this.#options;
    return typeof token === 'function' ? token() : token;
  }

  #open() {
    const mine = ++this.#connection;
    this.#moveAt = null;
    this.#setState('connecting', { tries: this.#tries });
    if (this.state !== 'connecting' || mine !== this.#connection) return;
    this.#opening = this._clock.setTimeout(
      () => this.#lost(mine, 'no answer'), this.#options.connectTimeoutMs);
    if (typeof this.#options.token !== 'function') return this.#dial(mine, this.#options.token);
    this.#token().then((token) => this.#dial(mine, token), (error) => {
      const why = `no token: ${error?.message ?? error}`;
      this._emit('error', new RingcastError('unauthorized', why));
      this.#lost(mine, 'no token');
    });
  }

  #dial(mine, token) {
    if (mine !== this.#connection || this.state !== 'connecting') return;
    const WebSocket = this.#webSocket();
    const url = new URL(this.#url);
    if (this.#options.username) url.searchParams.set('username', this.#options.username);
    if (token) url.searchParams.set('token', token);
    this.#armRenewal(token);
    const socket = new WebSocket(url.href, PROTOCOL);
    this.#socket = socket;
    const counts = () => this.#socket === socket;
    socket.onopen = () => { if (counts()) this.#onOpen(); };
    socket.onmessage = (event) => { if (counts()) this.#onText(event.data); };
    socket.onerror = () => {}; // A close follows.
    socket.onclose = (event) => { if (counts()) this.#onClose(mine, event); };
  }

  /** A client may send before it has read `welcome`. */
  #onOpen() {
    this.#heardAt = this._clock.now();
    for (const room of this.#rooms.values()) room._join();
    this.#flush();
  }

  #onText(data) {
    this.#heardAt = this._clock.now();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return this._emit('error', new RingcastError('bad_json', 'the server sent what is no JSON'));
    }
    switch (frame?.type) {
      case 'welcome': return this.#onWelcome(frame);
      case 'ack': return this.#onAck(frame);
      case 'error': return this.#onError(frame);
      case 'going_away': return this.#onGoingAway(frame);
      case 'degraded': return this.#onDegraded(frame);
      case 'left': return this.#onLeft(frame);
      case 'pong':
      case 'refreshed':
      case 'members': return this.#onAnswer(frame);
      case 'joined':
      case 'message':
      case 'gap':
      case 'signal':
      case 'presence':
      case 'pending': return this.#onRoomFrame(frame);
      default: return undefined; // Of a later version: passed by.
    }
  }

  #onWelcome(frame) {
    this._clock.clearTimeout(this.#opening);
    this.welcome = frame;
    this.#openedAt = this._clock.now();
    const told = frame.heartbeat_ms > 0 ? frame.heartbeat_ms : this.#options.heartbeatMs;
    this.#heartbeatMs = Math.max(1000, Math.min(told, this.#options.heartbeatMs));
    this.#armBeat(this.#heartbeatMs);
    if (this.degraded) this.#onDegraded({ degraded: false });
    this._emit('welcome', frame);
    this.#setState('open');
  }

  #onClose(mine, { code, reason }) {
    if (code === CLOSE.tooBig) this.#giveUpLargest();
    if (code === CLOSE.tryLater) this.#tries = Math.max(this.#tries, 2);
    const hopeless = code === CLOSE.kicked
      || (code === CLOSE.unauthorized && typeof this.#options.token !== 'function');
    const why = reason || `closed with ${code}`;
    if (!hopeless) return this.#lost(mine, why);
    this.#drop(why);
    this.#unwatch();
    this.#setState('stopped', { code, reason: why });
  }

  #lost(mine, reason) {
    if (mine !== this.#connection || this.state === 'closed') return;
    const wasGood = this.state === 'open' && this._clock.now() - this.#openedAt >= SETTLED_MS;
    const moveAt = this.#moveAt;
    this.#drop(reason);
    if (wasGood || moveAt !== null) this.#tries = 0;
    // The server has spread its clients over the time already.
    const wait = moveAt === null ? this._jitter(this.#tries++) : moveAt - this._clock.now();
    this.#moveAt = moveAt;
    const retryInMs = Math.max(0, Math.round(wait));
    this.#retry = this._clock.setTimeout(() => this.#open(), retryInMs);
    this.#setState('waiting', { reason, retryInMs, tries: this.#tries });
  }

  /** Lets go of the socket and of all that was asked on it; rooms and the outbox stay. */
  #drop(reason) {
    const socket = this.#socket;
    this.#socket = null;
    this.#moveAt = null;
    this.#connection += 1;
    const timers = [this.#opening, this.#beat, this.#retry, this.#hold, this.#renewal];
    timers.forEach((timer) => this._clock.clearTimeout(timer));
    this.#hold = null;
    for (const { reject } of this.#questions.values()) {
      reject(new RingcastError('disconnected', reason));
    }
    this.#questions.clear();
    for (const room of this.#rooms.values()) room._lost();
    if (socket && socket.readyState < 2) socket.close(1000);
  }

  /** Back on line, or looked at again: no need to sit out the wait. */
  #watch() {
    const { document, addEventListener } = globalThis;
    if (typeof document !== 'object' || typeof addEventListener !== 'function') return;
    const wake = () => { if (!document.hidden) this.wake(); };
    globalThis.addEventListener('online', wake);
    document.addEventListener('visibilitychange', wake);
    this.#unwatch = () => {
      globalThis.removeEventListener('online', wake);
      document.removeEventListener('visibilitychange', wake);
    };
  }

  #onGoingAway(frame) {
    const wait = Math.min(Math.max(0, Number(frame.reconnect_in_ms) || 0), GOING_AWAY_MS_MAX);
    this.#moveAt = this._clock.now() + wait;
    const mine = this.#connection;
    // What is published until then still goes out here; what is not acked goes again there.
    this._clock.clearTimeout(this.#retry);
    this.#retry = this._clock.setTimeout(() => this.#lost(mine, 'the server goes away'), wait);
    this._emit('going_away', { reconnectInMs: wait });
  }

  // --- The heartbeat: a server's pings can't be seen here, so silence is asked about ---

  #armBeat(wait) {
    this._clock.clearTimeout(this.#beat);
    this.#beat = this._clock.setTimeout(() => {
      const silent = this._clock.now() - this.#heardAt;
      if (silent < this.#heartbeatMs) this.#armBeat(this.#heartbeatMs - silent);
      else this.#probe();
    }, wait);
  }

  #probe() {
    const mine = this.#connection;
    const asked = this._clock.now();
    this.ping().then(() => {
      if (mine === this.#connection) this.#armBeat(this.#heartbeatMs);
    }, () => {});
    this._clock.clearTimeout(this.#beat);
    this.#beat = this._clock.setTimeout(() => {
      if (this.#heardAt <= asked) this.#lost(mine, 'no answer');
      else this.#armBeat(this.#heartbeatMs);
    }, this.#options.pongTimeoutMs);
  }

  // --- The token: a new one before the old one ends ---

  /** Only who can give new ones is asked for one. */
  #armRenewal(token) {
    this._clock.clearTimeout(this.#renewal);
    const endsAt = typeof this.#options.token === 'function' ? expiryOf(token) : null;
    if (endsAt === null) return;
    const left = endsAt - this._clock.now();
    const wait = Math.max(RENEW_MS_MIN, left - Math.min(RENEW_MS, left / 2));
    const mine = this.#connection;
    this.#renewal = this._clock.setTimeout(() => {
      if (mine !== this.#connection) return;
      if (wait > TIMER_MS_MAX) this.#armRenewal(token);
      else this.#renew(token, mine);
    }, Math.min(wait, TIMER_MS_MAX));
  }

  /** If there is no new one the old one's time is halved, until the server ends it with 4001. */
  #renew(token, mine) {
    this.refresh().catch((error) => {
      if (mine !== this.#connection) return;
      this._emit('error', new RingcastError('unauthorized', `no token: ${error?.message ?? error}`));
      this.#armRenewal(token);
    });
  }

  // --- What was published ---

  #push(kept) {
    kept.sentOn = this.#connection;
    kept.firstSentAt ??= this._clock.now();
    this.#socket.send(kept.text);
    this._emit('sent', { id: kept.id, room: kept.room });
  }

  /** Sends all that was not sent on this connection, in order. */
  #flush() {
    if (!this.#isOpen() || this.#hold !== null) return;
    const oldest = this._clock.now() - this.#options.retryWindowMs;
    for (const kept of [...this.#outbox.values()]) {
      if (kept.sentOn === this.#connection) continue;
      if (kept.firstSentAt !== null && kept.firstSentAt < oldest) {
        const why = 'it was sent and not answered for too long: it may be stored, or not';
        this.#refuse(kept.id, 'uncertain', why);
      } else {
        this.#push(kept);
      }
    }
  }

  #take(id) {
    const kept = this.#outbox.get(id);
    if (kept === undefined) return undefined;
    this.#outbox.delete(id);
    this.#outboxBytes -= kept.bytes;
    return kept;
  }

  #refuse(id, code, message) {
    const kept = this.#take(id);
    kept?.reject(new RingcastError(code, message, id));
    return kept !== undefined;
  }

  #onAck({ ref, id, offset }) {
    const kept = this.#take(ref);
    if (kept === undefined) return;
    this.#holds = 0;
    if (kept.echo === false) this.#rooms.get(kept.room)?._skip(offset);
    kept.resolve({ id: id ?? kept.id, offset });
  }

  /** The connection was closed for a message that is too big: it must be the largest under way. */
  #giveUpLargest() {
    const sent = [...this.#outbox.values()].filter((kept) => kept.sentOn === this.#connection);
    const largest = sent.reduce((a, b) => (b.bytes > (a?.bytes ?? 0) ? b : a), undefined);
    if (largest) this.#refuse(largest.id, 'too_large', 'the server takes no message so big');
  }

  /** It was only too early: nothing more is published for a while, so that order is kept. */
  #holdBack(kept) {
    kept.sentOn = 0;
    kept.firstSentAt = null; // It was refused, so it is not stored.
    if (this.#hold !== null) return;
    const wait = this.#options.backoffMs + this._jitter(++this.#holds);
    this.#hold = this._clock.setTimeout(() => {
      this.#hold = null;
      this.#flush();
    }, wait);
  }

  // --- What the server says ---

  #onError(frame) {
    const { ref, code, message } = frame;
    const kept = this.#outbox.get(ref);
    if (kept) return PASSING.has(code) ? this.#holdBack(kept) : this.#refuse(ref, code, message);
    const question = this.#questions.get(ref);
    if (question) {
      this.#questions.delete(ref);
      return question.reject(new RingcastError(code, message));
    }
    if ([...this.#rooms.values()].some((room) => room._refused(frame))) return;
    // A join that nobody waits for any more is no news.
    if (typeof ref === 'string' && ref.startsWith('j')) return;
    this._emit('error', new RingcastError(code, message));
  }

  #onAnswer(frame) {
    this.#questions.get(frame.ref)?.resolve(frame);
    this.#questions.delete(frame.ref);
  }

  /** A room that was left here is no longer known; one that is was left by the server. */
  #onLeft(frame) {
    const room = this.#rooms.get(frame.room);
    if (room === undefined || room.state !== 'joined') return;
    this._forget(room, false);
    room._removed('the token does not allow this room any more');
  }

  #onDegraded({ degraded, reason }) {
    this.degraded = degraded === true;
    this._emit('degraded', { degraded: this.degraded, reason });
  }

  #onRoomFrame(frame) {
    // Whatever is seen is stored: an ack that was lost is not missed.
    if (frame.type === 'message' && this.#outbox.get(frame.id)?.room === frame.room) {
      const { id, offset } = frame;
      this.#take(id).resolve({ id, offset });
    }
    const room = this.#rooms.get(frame.room);
    if (room) return room._on(frame);
    // Of a personal room, which nobody need join.
    if (frame.room?.startsWith('@') && (frame.type === 'message' || frame.type === 'signal')) {
      this._emit(frame.type, { ...frame, own: this._isOwn(frame) });
    }
  }
}

/** The address of the WebSocket: `/ws` of that host unless a path is given. */
function webSocketUrl(url, isPage) {
  if (!url) throw new RingcastError('bad_frame', 'an address is needed, such as ws://host:8080');
  const parsed = new URL(url, globalThis.location?.href);
  if (isPage) parsed.pathname = '/ws';
  parsed.search = '';
  parsed.hash = '';
  parsed.protocol = parsed.protocol.replace(/^http/, 'ws');
  if (parsed.pathname === '/') parsed.pathname = '/ws';
  return parsed.href;
}

/** When a token ends, in ms since 1970; null where that can't be read. */
function expiryOf(token) {
  try {
    const claims = token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
    const { exp } = JSON.parse(atob(claims));
    return Number.isFinite(exp) ? exp * 1000 : null;
  } catch {
    return null;
  }
}

function utf8Length(text) {
  return new TextEncoder().encode(text).length;
}
