// The page at `/`: rooms over the client `ringcast.js`. It decides what becomes of what the server
// and the user say; `page-rooms.js` keeps it, `page-view.js` shows it, `page-token.js` asks for a
// token.
//
// Invariants: nothing that a user wrote is lost without being told, not by a reload either, as far
// as this tab's storage goes; and nothing of it is ever markup.

import { Ringcast, uuid } from '/ringcast.js';
import { Conversation, textOf } from '/page-rooms.js';
import { showToken, takeToken } from '/page-token.js';
import * as view from '/page-view.js';

const { page } = view;
const LAST = 50; // Messages that are shown of what was said before.
const PAST_LIMIT = 50;
const PING_MS = 5000;
const TYPING_EVERY_MS = 2000;
const BANNER_AFTER_MS = 700; // A connection that is back sooner needs no banner.
const STORED_KEY = 'ringcast';
const REASONS = { 4001: 'The token has ended.', 4003: 'An operator has closed this connection.' };
const OUTBOX_MS_MAX = 9 * 60 * 1000; // As long as the server knows a message's id again.

const token = takeToken();
const client = new Ringcast(undefined, { token });
const conversations = new Map();
let active = null;
let username = '';
let opened = 0; // Connections so far.
let retryAt = 0;
let reason = '';
let bannerTimer = 0;
let lastTyped = 0;
let hasHistory = true; // Until the server says that it has none.
let loading = false;
let scrolledByUser = false;
let unseen = 0; // Messages below what is read.

// --- Rooms ------------------------------------------------------------------------------------

function joinRoom(name, since) {
  const conversation = conversations.get(name) ?? new Conversation(name);
  conversations.set(name, conversation);
  const options = { username, presence: true };
  conversation.room = client.join(name, since ? { ...options, since } : { ...options, last: LAST });
  conversation.refused = false;
  save();
  return conversation;
}

function leaveRoom(name) {
  const conversation = conversations.get(name);
  conversation.room.leave(); // What was written there still goes out.
  conversations.delete(name);
  if (active === conversation) open([...conversations.keys()].at(-1) ?? null);
  else showRooms();
  if (active) page.text.focus();
  save();
}

function open(name) {
  if (active) active.draft = page.text.value;
  active = name === null ? null : conversations.get(name);
  document.body.dataset.view = active === null ? 'hello' : 'room';
  page.hello.hidden = active !== null;
  page.conversation.hidden = active === null;
  page.rename.hidden = active === null;
  view.closePanels();
  showRooms();
  view.showOffset(active?.room.position ?? null);
  if (active === null) {
    page.people.replaceChildren();
    page.peopleMore.hidden = true;
    page.name.focus();
    return;
  }
  active.unread = 0;
  unseen = 0;
  page.title.textContent = active.name;
  page.text.value = active.draft;
  page.text.placeholder = `Message ${active.name}`;
  grow();
  view.showLog(active);
  showWaiting();
  showPast();
  view.showPeople(active, client.userId);
  showTyping();
  showRooms();
  page.text.focus();
  save();
}

function showRooms() {
  view.showRooms(conversations, active, open, leaveRoom);
}

async function askPeople(conversation) {
  try {
    const { members, count } = await conversation.room.members();
    conversation.setPeople(members, count);
    if (conversation === active) view.showPeople(conversation, client.userId);
  } catch {
    // The connection went away: the next `joined` asks again.
  }
}

// --- Messages ---------------------------------------------------------------------------------

/** False if too much waits already. */
function publish(conversation, text, id = uuid()) {
  if (!conversation.wait(id, { own: true, name: username, text, state: 'unsent' })) return false;
  client.publish(conversation.name, text, { id }).then(
    ({ offset }) => {
      if (conversation.waiting.has(id)) conversation.wait(id, { offset });
      dropStored(conversation);
    },
    ({ message }) => {
      conversation.wait(id, { state: 'failed', why: message });
      const isLeft = conversations.get(conversation.name) !== conversation;
      if (isLeft && active) {
        note(active, `What you wrote in ${conversation.name} was not stored: ${message}`, 'bad');
      }
    },
  ).finally(() => showWaitingOf(conversation));
  showWaitingOf(conversation);
  return true;
}

/** What is stored, and is not to come any more: it was in a part that was skipped. */
function dropStored(conversation) {
  const { position } = conversation.room;
  for (const [id, { offset }] of conversation.waiting) {
    const isPast = offset !== undefined && (position === null || offset <= position.offset);
    if (isPast) conversation.waiting.delete(id);
  }
}

function showWaiting() {
  view.showWaiting(active, (id) => {
    active.waiting.delete(id);
    showWaiting();
    page.text.focus();
  }, (id) => {
    const { text } = active.waiting.get(id);
    active.waiting.delete(id);
    publish(active, text);
    page.text.focus();
  });
}

function showWaitingOf(conversation) {
  if (conversation === active) view.keepingPlace(showWaiting);
}

function add(conversation, item) {
  if (conversation !== active) return;
  const atEnd = view.keepingPlace(() => {
    view.appendItem(active, item);
    showWaiting();
  });
  if (atEnd) view.removeOldest(active.trim());
  else if (item.kind === 'message') showUnseen(unseen + 1);
  view.showOffset(active.room.position);
}

function note(conversation, text, tone) {
  const last = conversation.items.at(-1);
  if (last?.kind === 'note' && last.text === text) return;
  add(conversation, conversation.addNote(text, tone));
}

function showUnseen(count) {
  unseen = count;
  page.toEnd.hidden = count === 0;
  page.toEnd.textContent = count === 1 ? '1 new message' : `${count} new messages`;
}

function showTyping() {
  if (active) view.showTyping(active.whoTypes(Date.now()));
}

async function loadPast() {
  const conversation = active;
  const first = conversation?.firstMessage();
  if (loading || !hasHistory || !first || isPastShown(conversation)) return;
  const query = conversation.past ?? { epoch: first.epoch, before: first.offset };
  loading = true;
  view.showPast('Looking further back');
  try {
    const answer = await conversation.room.history({ ...query, limit: PAST_LIMIT });
    if (answer === null) hasHistory = false;
    else tookPast(conversation, answer);
  } catch {
    // Another scroll asks again.
  } finally {
    loading = false;
    showPast();
  }
}

function tookPast(conversation, { epoch, previous_epoch: previous, messages }) {
  const isOwn = ({ user_id }) => user_id === client.userId;
  const older = messages.map((one) => ({ epoch, ...one, own: isOwn(one) }));
  const kept = conversation.addPast(older);
  const [oldest] = messages;
  const isWhole = messages.length < PAST_LIMIT || oldest.offset === 1;
  conversation.past = isWhole && previous ? { epoch: previous } : { epoch, before: oldest?.offset };
  conversation.isWhole = isWhole && !previous;
  if (conversation === active) view.prependItems(conversation, kept);
}

/** Whether there is nothing further back, or no room for it; as far as is known. */
function isPastShown(conversation) {
  const first = conversation.firstMessage();
  return conversation.isWhole || conversation.isFull()
    || (first?.offset === 1 && conversation.past === null && !conversation.hadReset);
}

function showPast() {
  if (!active?.firstMessage() || !isPastShown(active)) return view.showPast('');
  const isFull = active.isFull() && !active.isWhole;
  view.showPast(isFull ? 'This page looks no further back' : 'Here the conversation begins');
}

// --- What the server says -----------------------------------------------------------------------

function onRoom(type, handle) {
  client.on(type, (event) => {
    const conversation = conversations.get(event.room);
    if (conversation) handle(conversation, event);
  });
}

onRoom('message', (conversation, message) => {
  const item = conversation.addMessage(message);
  if (conversation !== active || document.hidden) {
    if (!item.own) conversation.unread += 1;
    showRooms();
  }
  add(conversation, item);
  if (conversation === active) {
    showTyping();
    if (!item.own) view.say(item.name, item.text);
  }
});

onRoom('joined', (conversation, { recovered, members }) => {
  conversation.count = members;
  if (recovered === true && !conversation.renamed) {
    note(conversation, 'Back, and nothing was missed', 'good');
  }
  conversation.renamed = false;
  dropStored(conversation);
  askPeople(conversation);
  if (conversation !== active) return;
  view.showPeople(conversation, client.userId);
  view.showOffset(conversation.room.position);
  showPast();
});

onRoom('reset', (conversation) => {
  conversation.hadReset = true;
  dropStored(conversation);
  note(conversation, 'Some messages may be missing here: they cannot be had again', 'warn');
});

onRoom('gap', (conversation, { from, to }) => {
  dropStored(conversation);
  const which = from === to ? `#${from} was` : `#${from} to #${to} were`;
  note(conversation, `${which} skipped`, 'warn');
});

onRoom('refused', (conversation, { message }) => {
  conversation.refused = true;
  note(conversation, `This room could not be joined: ${message}`, 'bad');
  showRooms();
});

onRoom('presence', (conversation, event) => {
  conversation.onPresence(event);
  if (conversation === active) {
    view.showPeople(conversation, client.userId);
    showTyping();
  }
});

onRoom('signal', (conversation, event) => {
  conversation.onTyping(event, Date.now());
  if (conversation === active) showTyping();
});

onRoom('pending', (conversation, { id, username: name, user_id, payload }) => {
  const isOwn = conversation.waiting.get(id)?.own === true;
  const whose = isOwn ? {} : { own: false, name: name || user_id, text: textOf(payload) };
  conversation.wait(id, { ...whose, state: 'held' });
  showWaitingOf(conversation);
});

client.on('sent', ({ id, room }) => {
  const conversation = conversations.get(room);
  if (!conversation?.waiting.has(id)) return;
  conversation.wait(id, { state: 'sent' });
  showWaitingOf(conversation);
});

client.on('degraded', showConnection);
client.on('error', ({ message }) => {
  if (active) note(active, message, 'bad');
});
client.on('welcome', ({ instance_id, shard }) => {
  opened += 1;
  page.instance.textContent = instance_id;
  page.shard.textContent = String(shard);
  page.cameBack.textContent = opened === 2 ? 'once' : opened > 2 ? `${opened - 1} times` : 'never';
});

client.on('state', ({ state, retryInMs, reason: why, code }) => {
  clearTimeout(bannerTimer);
  if (state === 'open') measure();
  if (state === 'waiting' || state === 'stopped') {
    reason = REASONS[code] ?? why;
    retryAt = Date.now() + (retryInMs ?? 0);
    for (const conversation of conversations.values()) {
      conversation.forgetPreviews();
      for (const [id, { own, state: waits }] of conversation.waiting) {
        if (own && waits !== 'failed') conversation.wait(id, { state: 'unsent' });
      }
      conversation.typing.clear();
    }
    view.showRoundTrip(null);
    if (active) {
      showWaitingOf(active);
      showTyping();
    }
  }
  showConnection();
});

// --- The connection -----------------------------------------------------------------------------

function showConnection() {
  clearTimeout(bannerTimer);
  if (client.state === 'open' && client.degraded) {
    view.showState('degraded', 'Degraded');
    view.showBanner('warn', 'This server cannot reach its Redis. What you write is kept, shown '
      + 'here as held, and stored as soon as it can.');
  } else if (client.state === 'open') {
    view.showState('on', 'Connected');
    view.showBanner('', '');
  } else if (client.state === 'stopped') {
    view.showState('off', 'Disconnected');
    view.showBanner('bad', `${reason} What you wrote is kept.`, true);
  } else if (client.state === 'idle') {
    view.showState('off', 'Not connected');
  } else {
    view.showState('wait', opened === 0 ? 'Connecting' : 'Reconnecting');
    bannerTimer = setTimeout(showWait, page.banner.hidden ? BANNER_AFTER_MS : 0);
  }
}

/** The wait, second by second: on the screen, and not in the ears. */
function showWait() {
  const left = Math.ceil((retryAt - Date.now()) / 1000);
  const isWaiting = client.state === 'waiting' && left > 0;
  const when = isWaiting ? `trying again in ${left} s` : 'trying again';
  view.showBanner('warn', `No connection, ${when}. What you write is kept.`, isWaiting);
  if (client.state !== 'open') bannerTimer = setTimeout(showWait, 500);
}

async function measure() {
  if (client.state !== 'open' || document.hidden) return;
  try {
    view.showRoundTrip(await client.ping());
  } catch {
    // Told by the state.
  }
}

setInterval(measure, PING_MS);
setInterval(showTyping, 1000);

// --- What the user does -------------------------------------------------------------------------

page.join.addEventListener('submit', (event) => {
  event.preventDefault();
  username = page.newName.value = page.name.value.trim() || page.name.value;
  client.connect();
  joinRoom(page.room.value);
  open(page.room.value);
});

page.more.addEventListener('submit', (event) => {
  event.preventDefault();
  const name = page.moreRoom.value;
  page.moreRoom.value = '';
  if (!conversations.has(name)) joinRoom(name);
  open(name);
});

page.rename.addEventListener('submit', (event) => {
  event.preventDefault();
  username = page.newName.value;
  // A name is told by joining: out and in again, at the place where we are.
  for (const { name, room } of conversations.values()) {
    const { position } = room;
    room.leave();
    joinRoom(name, position ?? undefined).renamed = true;
  }
  view.closePanels();
  page.text.focus();
});

page.send.addEventListener('submit', (event) => {
  event.preventDefault();
  const text = page.text.value;
  if (text.trim() === '' || !active || active.refused) return;
  if (!publish(active, text)) {
    return note(active, 'Too much waits to be stored; this one is still in the field', 'warn');
  }
  active.room.signal({ typing: false });
  lastTyped = 0;
  page.text.value = '';
  grow();
  view.toEnd();
  showUnseen(0);
  page.text.focus();
});

page.text.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  page.send.requestSubmit();
});

page.text.addEventListener('input', () => {
  grow();
  const now = Date.now();
  if (page.text.value === '' || now - lastTyped < TYPING_EVERY_MS) return;
  lastTyped = now;
  active?.room.signal({ typing: true });
});

/** The field is as high as its text, up to what the style allows. */
function grow() {
  page.text.style.height = 'auto';
  const border = page.text.offsetHeight - page.text.clientHeight;
  page.text.style.height = `${page.text.scrollHeight + border}px`;
}

page.retry.addEventListener('click', () => {
  page.text.focus();
  if (client.state === 'stopped') client.connect();
  else client.wake();
});

page.toEnd.addEventListener('click', () => {
  view.toEnd();
  page.text.focus();
});

for (const type of ['wheel', 'touchmove', 'keydown', 'pointerdown']) {
  page.scroll.addEventListener(type, () => { scrolledByUser = true; }, { passive: true });
}
page.scroll.addEventListener('scroll', () => {
  if (view.isAtEnd()) showUnseen(0);
  if (scrolledByUser && page.scroll.scrollTop < 100) loadPast();
}, { passive: true });

document.addEventListener('visibilitychange', () => {
  if (document.hidden || !active) return;
  active.unread = 0;
  showRooms();
  measure();
});

// --- What outlives a reload ---------------------------------------------------------------------

function save() {
  const rooms = [...conversations.keys()];
  const outbox = client.outbox.map(({ id, room, payload }) => ({ id, room, payload }));
  const kept = { username, rooms, active: active?.name ?? null, outbox, at: Date.now() };
  try {
    sessionStorage.setItem(STORED_KEY, JSON.stringify(kept));
  } catch {
    // No storage here, or it is full: then a reload begins anew.
  }
}

function restore() {
  let kept = null;
  try {
    kept = JSON.parse(sessionStorage.getItem(STORED_KEY));
  } catch {
    // As above.
  }
  if (!Array.isArray(kept?.rooms) || kept.rooms.length === 0) return false;
  username = page.newName.value = String(kept.username);
  kept.rooms.forEach((name) => joinRoom(String(name)));
  open(conversations.has(kept.active) ? kept.active : kept.rooms[0]);
  if (Date.now() - kept.at < OUTBOX_MS_MAX) {
    for (const { id, room, payload } of kept.outbox) {
      if (conversations.has(room)) publish(conversations.get(room), payload, id);
    }
  }
  client.connect();
  return true;
}

addEventListener('pagehide', save);
showToken(client, token, (text, tone) => { if (active) note(active, text, tone); });

const asked = new URLSearchParams(location.search);
page.name.value = asked.get('username') || `guest-${uuid().slice(0, 4)}`;
page.room.value = asked.get('room') || 'lobby';
if (!restore()) {
  page.name.select();
  page.name.focus();
}
