// What the page knows of a room: messages, notes between them, what waits, who is there and who
// types. No DOM here, and no socket: `page.js` fills it, `page-view.js` shows it.
//
// Invariants: `items` are in the room's order and at most ITEMS_MAX; an id is either among the
// messages or among what waits, never in both.

export const ITEMS_MAX = 1000;
/** What is kept of a room while nobody reads further back. */
const ITEMS_LIVE_MAX = 500;
const WAITING_MAX = 200;
const PEOPLE_MAX = 2000;
const TYPING_MS = 5000;

export class Conversation {
  constructor(name) {
    this.name = name;
    this.room = null; // The client's.
    this.items = []; // `{ kind: 'message' | 'note', … }`
    this.waiting = new Map(); // id -> own and others' messages that are not stored yet.
    this.people = new Map(); // user_id -> name
    this.typing = new Map(); // user_id -> { name, until }
    this.count = 0;
    this.unread = 0;
    this.draft = '';
    this.past = null; // Where to look further back, once that was begun.
    this.isWhole = false; // Whether it was looked back to the beginning.
    this.hadReset = false; // Offset 1 is not the beginning then.
  }

  /** One message of the room's order; what waited under its id does no more. */
  addMessage(message) {
    this.waiting.delete(message.id);
    this.typing.delete(message.user_id);
    const item = messageItem(message);
    this.#push(item);
    return item;
  }

  addNote(text, tone = 'calm') {
    const item = { kind: 'note', text, tone };
    this.#push(item);
    return item;
  }

  #push(item) {
    this.items.push(item);
    // Whoever reads the past has asked for it; else old ones go.
    if (this.items.length > ITEMS_MAX) this.items.shift();
  }

  /** Lets go of what is older than need be; how many. */
  trim() {
    const surplus = Math.max(0, this.items.length - ITEMS_LIVE_MAX);
    this.items.splice(0, surplus);
    if (surplus > 0) {
      this.past = null;
      this.isWhole = false;
    }
    return surplus;
  }

  isFull() {
    return this.items.length >= ITEMS_MAX;
  }

  /** Older messages, in front; those that are here already are passed by. */
  addPast(messages) {
    const first = this.firstMessage();
    const older = messages
      .filter(({ epoch, offset }) => !first || epoch !== first.epoch || offset < first.offset)
      .map(messageItem);
    const kept = older.slice(Math.max(0, older.length - (ITEMS_MAX - this.items.length)));
    this.items.unshift(...kept);
    return kept;
  }

  firstMessage() {
    return this.items.find(({ kind }) => kind === 'message');
  }

  /** Notes something of what waits; previews make place for others. False: there is no place. */
  wait(id, entry) {
    if (this.waiting.size >= WAITING_MAX && !this.waiting.has(id)) {
      const [preview] = [...this.waiting].find(([, { own }]) => !own) ?? [];
      if (preview === undefined) return false;
      this.waiting.delete(preview);
    }
    this.waiting.set(id, { ...this.waiting.get(id), ...entry });
    return true;
  }

  /** Previews of others belong to the connection that told of them. */
  forgetPreviews() {
    for (const [id, { own }] of this.waiting) if (!own) this.waiting.delete(id);
  }

  setPeople(members, count) {
    this.people = new Map(members.map(({ user_id, username }) => [user_id, username || user_id]));
    this.count = count;
  }

  onPresence({ event, user_id, username, members }) {
    if (event === 'leave') this.people.delete(user_id);
    else if (this.people.size < PEOPLE_MAX) this.people.set(user_id, username || user_id);
    if (event === 'leave') this.typing.delete(user_id);
    this.count = members;
  }

  onTyping({ user_id, username, payload }, now) {
    if (payload?.typing === true && this.typing.size < PEOPLE_MAX) {
      this.typing.set(user_id, { name: username || user_id, until: now + TYPING_MS });
    } else {
      this.typing.delete(user_id);
    }
  }

  /** Names of those who type. */
  whoTypes(now) {
    for (const [id, { until }] of this.typing) if (until <= now) this.typing.delete(id);
    return Array.from(this.typing.values(), ({ name }) => name);
  }
}

function messageItem(message) {
  return {
    kind: 'message',
    id: message.id,
    epoch: message.epoch,
    offset: message.offset,
    userId: message.user_id,
    name: message.username || message.user_id || '?',
    text: textOf(message.payload),
    at: new Date(message.sent_at),
    own: message.own === true,
  };
}

/** A payload as people read it. */
export function textOf(payload) {
  if (typeof payload === 'string') return payload;
  if (typeof payload?.text === 'string') return payload.text;
  return JSON.stringify(payload);
}
