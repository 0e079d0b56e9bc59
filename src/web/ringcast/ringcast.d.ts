/** The client of the protocol ringcast.v1: the types of `ringcast.js`. */

/** The subprotocol that is spoken. */
export const PROTOCOL: 'ringcast.v1';

/** What JSON can say. */
export type Json = null | boolean | number | string | Json[] | { [member: string]: Json };

/** Where a client is in a room: the last offset that it has seen, in one life of the offsets. */
export interface Position {
  epoch: string;
  offset: number;
}

/** Codes of the server's `error` frames, and this client's own. */
export type ErrorCode =
  | 'bad_json' | 'bad_frame' | 'unknown_type' | 'bad_room' | 'not_joined' | 'too_large'
  | 'rate_limited' | 'unauthorized' | 'forbidden' | 'too_many_rooms' | 'overloaded'
  | 'unavailable' | 'internal'
  /** The outbox is full: wait for some of it to be stored. */
  | 'outbox_full'
  /** It was sent and never answered; it may be stored, or not. */
  | 'uncertain'
  /** It was given up by `cancel`. */
  | 'cancelled'
  /** The connection went away before the answer. */
  | 'disconnected'
  /** The room was left before it was joined. */
  | 'left'
  /** `close()` was called. */
  | 'closed';

/** Why something was not done. */
export class RingcastError extends Error {
  code: ErrorCode;
  /** Of the message that it is about. */
  id?: string;
  constructor(code: ErrorCode, message: string, id?: string);
}

/** A random UUID, version 4. */
export function uuid(): string;

/** One message of a room. */
export interface Message {
  room: string;
  /** Rises within an epoch. */
  offset: number;
  /** Absent on messages of a personal room that was not joined. */
  epoch?: string;
  /** A UUID. */
  id: string;
  user_id: string;
  username?: string;
  payload: Json;
  metadata?: Json;
  /** RFC 3339, UTC, milliseconds. */
  sent_at: string;
  /** Whether it is from this client. */
  own: boolean;
}

export interface Joined {
  room: string;
  epoch: string;
  offset: number;
  /** There after a resume only: whether all that was missed follows. */
  recovered?: boolean;
  members: number;
}

/** What was missed can't be had: the offsets go on at `offset` of `epoch`. */
export interface Reset extends Position {
  room: string;
  before: Position | null;
}

/** These were skipped, the client being too slow, or they are lost. */
export interface Gap {
  room: string;
  epoch: string;
  from: number;
  to: number;
}

export interface Signal {
  room: string;
  user_id: string;
  username?: string;
  payload: Json;
}

export interface Presence {
  room: string;
  event: 'join' | 'leave';
  user_id: string;
  username?: string;
  /** Users in the room now. */
  members: number;
}

/** A message that is held while the server's Redis is away. It promises nothing. */
export interface Pending {
  room: string;
  /** The message that comes later has the same. */
  id: string;
  user_id: string;
  username?: string;
  payload: Json;
  sent_at: string;
}

export interface Refused {
  room?: string;
  code: ErrorCode;
  message: string;
}

export interface Welcome {
  protocol: string;
  client_id: string;
  user_id: string;
  instance_id: string;
  shard: number;
  heartbeat_ms: number;
}

/**
 * - `idle`: before `connect()`
 * - `connecting`, `open`
 * - `waiting`: the connection was lost; the next try is under way by itself
 * - `stopped`: the server wants us not to come back (kicked, or a bad token): `connect()` does
 * - `closed`: for good
 */
export type State = 'idle' | 'connecting' | 'open' | 'waiting' | 'stopped' | 'closed';

export interface StateChange {
  state: State;
  /** Why the connection was lost. */
  reason?: string;
  /** Until the next try, in milliseconds. */
  retryInMs?: number;
  /** Failed tries since the last good connection. */
  tries?: number;
  /** The close code, when `stopped`. */
  code?: number;
}

export interface RoomEvents {
  /** Joined, also each time after a reconnect. */
  joined: Joined;
  message: Message;
  gap: Gap;
  reset: Reset;
  signal: Signal;
  presence: Presence;
  pending: Pending;
  /** The join was refused for good. */
  refused: Refused;
}

/** All events of all rooms too: each has its `room`. */
export interface ClientEvents extends RoomEvents {
  state: StateChange;
  welcome: Welcome;
  /** The instance lost its Redis, or found it again; publishes are held meanwhile. */
  degraded: { degraded: boolean; reason?: string };
  /** The server drains: this client comes back by itself, so many milliseconds from now. */
  going_away: { reconnectInMs: number };
  /** A message went out on this connection; it is not stored yet. */
  sent: { id: string; room: string };
  /** What nobody waits for an answer of. */
  error: RingcastError;
}

declare class Emitter<Events> {
  /** Calls `listener` at each event of that type; the returned function ends that. */
  on<Type extends keyof Events>(type: Type, listener: (event: Events[Type]) => void): () => void;
  off<Type extends keyof Events>(type: Type, listener: (event: Events[Type]) => void): void;
}

/** The part of the WebSocket interface that is used. */
export interface WebSocketLike {
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}

export interface Clock {
  /** Milliseconds. */
  now(): number;
  /** Milliseconds with fractions, for round trips. */
  precise?(): number;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
}

export interface Options {
  /** The name in every room that does not say another. */
  username?: string;
  /**
   * A token, or what gives one. A function is asked before each connection, and in time before its
   * token ends (by `exp`), for one that takes its place on the same connection.
   */
  token?: string | (() => string | Promise<string>);
  /** Where there is no global one (Node 20): `import { WebSocket } from 'ws'`. */
  WebSocket?: new (url: string, protocol: string) => WebSocketLike;
  /** Messages kept that are not settled: 1000. */
  outboxMessages?: number;
  /** Bytes of them: 4 MiB. */
  outboxBytes?: number;
  /** Bytes of one frame: 64 KiB, as the server has it. */
  messageBytes?: number;
  /** The first wait is anything up to this: 500. It doubles with each failure. */
  backoffMs?: number;
  /** No wait is longer: 20000. */
  backoffMaxMs?: number;
  /** From the first try to `welcome`: 10000. */
  connectTimeoutMs?: number;
  /** Silence after which a ping is sent: what the server says, but at most 25000. */
  heartbeatMs?: number;
  /** A ping without an answer for so long, and the connection is given up: 10000. */
  pongTimeoutMs?: number;
  /** What was sent so long ago is not sent again: 9 min; below the server's --dedupe-window. */
  retryWindowMs?: number;
  /** For tests. */
  clock?: Clock;
  /** For tests: chance, from 0 up to 1. */
  random?: () => number;
}

export interface JoinOptions {
  username?: string;
  /** Hear `presence` events. */
  presence?: boolean;
  /** Go on from here. */
  since?: Position;
  /** At the first join, get the last so many messages as well, as far as they can be had. */
  last?: number;
}

export interface PublishOptions {
  metadata?: Json;
  /** False: the message does not come back as an event; the promise tells of it. */
  echo?: boolean;
  /** A UUID, for those who keep messages beyond the life of this client. */
  id?: string;
}

export interface Stored {
  id: string;
  offset: number;
}

export interface Member {
  user_id: string;
  username?: string;
}

export interface HistoryQuery {
  /** The room's present one unless given. */
  epoch?: string;
  before?: number;
  after?: number;
  /** At most 1000. */
  limit?: number;
}

export interface History {
  epoch: string;
  previous_epoch?: string;
  /** Oldest first. */
  messages: Omit<Message, 'own'>[];
}

export class Room extends Emitter<RoomEvents> {
  private constructor();
  readonly name: string;
  readonly state: 'joining' | 'joined' | 'refused' | 'left';
  readonly position: Position | null;
  /** Users in the room, as told last. */
  readonly count: number;
  /** Fulfilled at the first join; rejected if that is refused or given up. */
  readonly ready: Promise<Room>;
  publish(payload: Json, options?: PublishOptions): Promise<Stored>;
  /** Tells the members now, and stores nothing. False if it could not be sent. */
  signal(payload: Json): boolean;
  /** At most 1000 of them, and how many there are. */
  members(): Promise<{ members: Member[]; count: number }>;
  /** Older messages; null where the server keeps none. */
  history(query?: HistoryQuery): Promise<History | null>;
  leave(): void;
}

export class Ringcast extends Emitter<ClientEvents> {
  /** `ws(s)://` or `http(s)://`, of the page's own host unless given; `/ws` unless it has a path. */
  constructor(url?: string, options?: Options);
  readonly state: State;
  readonly welcome: Welcome | null;
  readonly userId: string | null;
  readonly degraded: boolean;
  /** Of the last ping, in milliseconds. */
  readonly roundTripMs: number | null;
  readonly rooms: Map<string, Room>;
  /** What is not settled, oldest first; `sent` on the present connection or not. */
  readonly outbox: { id: string; room: string; payload: Json; sent: boolean }[];
  connect(): void;
  close(): void;
  /** The room of that name; joined now and after each reconnect, until it is left. */
  join(name: string, options?: JoinOptions): Room;
  /** Fulfilled once it is stored; the sender need not have joined. */
  publish(room: string, payload: Json, options?: PublishOptions): Promise<Stored>;
  /** Whether there was such a message to give up. It may be stored all the same. */
  cancel(id: string): boolean;
  /** A round trip in milliseconds. */
  ping(): Promise<number>;
  /**
   * Sends a new token: the one given, or what the option gives. True once it is taken, false if not
   * connected; rejected with `unauthorized` if it is no good or another user's.
   */
  refresh(token?: string): Promise<boolean>;
  /** Tries at once instead of at the end of the wait, or looks whether the connection lives. */
  wake(): void;
}

/** `new Ringcast(url, options)` and `connect()`. */
export function connect(url?: string, options?: Options): Ringcast;
