// What is seen: the elements of the page and how the rooms' state becomes text in them.
//
// Text is never markup: it only ever becomes the content of text nodes. Nothing here decides
// anything; `page.js` calls it when something has changed.

import { ITEMS_MAX } from './page-rooms.js';

const byId = (id) => document.getElementById(id);
export const page = {
  state: byId('state'), stateText: byId('state-text'), roundTrip: byId('round-trip'),
  roundTripLong: byId('round-trip-long'), instance: byId('instance'), shard: byId('shard'),
  offset: byId('offset'), cameBack: byId('came-back'), unreadAll: byId('unread-all'),
  rooms: byId('rooms'), more: byId('more'), moreRoom: byId('more-room'),
  hello: byId('hello'), join: byId('join'), name: byId('name'),
  room: byId('room'), conversation: byId('conversation'), title: byId('title'), here: byId('here'),
  banner: byId('banner'), bannerText: byId('banner-text'), retry: byId('retry'),
  scroll: byId('scroll'), past: byId('past'), log: byId('log'), waiting: byId('waiting'),
  toEnd: byId('to-end'), typing: byId('typing'), send: byId('send'), text: byId('text'),
  people: byId('people'), peopleMore: byId('people-more'), rename: byId('rename'),
  newName: byId('new-name'), token: byId('token'), tokenWhy: byId('token-why'),
  newToken: byId('new-token'), main: byId('main'), shade: byId('shade'), says: byId('says'),
};

const PEOPLE_SHOWN_MAX = 200;
const FOLLOWS_MS = 5 * 60 * 1000;
const SAY_MS = 3000;

export function element(name, className, text = '') {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

// --- Messages ---------------------------------------------------------------------------------

/** A name's colour and letters. */
function avatar(name) {
  let hue = 0;
  for (const letter of name) hue = (hue * 31 + letter.codePointAt(0)) % 360;
  const made = element('span', 'avatar', [...name.trim()].slice(0, 1).join('').toUpperCase());
  made.setAttribute('aria-hidden', 'true');
  made.style.setProperty('--hue', String(hue));
  return made;
}

const hour = new Intl.DateTimeFormat(undefined, { hour: 'numeric', minute: '2-digit' });
const day = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });

function timeOf(at) {
  const time = element('time', '', isNaN(at) ? '' : hour.format(at));
  if (!isNaN(at)) time.dateTime = at.toISOString();
  return time;
}

function lineOf(item, before) {
  if (item.kind === 'note') return element('li', `note ${item.tone}`, item.text);
  const follows = before?.kind === 'message' && before.own === item.own
    && before.name === item.name && item.at - before.at < FOLLOWS_MS;
  const line = element('li', `message${item.own ? ' own' : ''}${follows ? ' follows' : ''}`);
  const startsDay = before?.kind === 'message' && !isNaN(item.at)
    && before.at.toDateString() !== item.at.toDateString();
  if (startsDay) line.dataset.day = day.format(item.at);
  const when = element('span', 'when');
  when.append(timeOf(item.at), ` #${item.offset}`);
  const bubble = element('div', 'bubble');
  bubble.append(element('span', 'who', item.name), element('span', 'what', item.text), when);
  line.append(avatar(item.name), bubble);
  return line;
}

export const isAtEnd = () =>
  page.scroll.scrollHeight - page.scroll.scrollTop - page.scroll.clientHeight < 60;

export function toEnd() {
  page.scroll.scrollTop = page.scroll.scrollHeight;
  page.toEnd.hidden = true;
}

/** Does what changes the messages, and stays at the end if that was where the reader is. */
export function keepingPlace(change) {
  const atEnd = isAtEnd();
  change();
  if (atEnd) toEnd();
  return atEnd;
}

/** Shows a whole room. */
export function showLog(conversation) {
  page.log.replaceChildren(
    ...conversation.items.map((item, at) => lineOf(item, conversation.items[at - 1])));
  showWaiting(conversation);
  toEnd();
}

export function appendItem(conversation, item) {
  const before = conversation.items.at(-2);
  page.log.append(lineOf(item, before));
  while (page.log.childElementCount > ITEMS_MAX) page.log.firstElementChild.remove();
}

export function removeOldest(count) {
  for (let at = 0; at < count; at += 1) page.log.firstElementChild?.remove();
}

/** Older messages in front, without what is read moving. */
export function prependItems(conversation, items) {
  const fromEnd = page.scroll.scrollHeight - page.scroll.scrollTop;
  const first = page.log.firstElementChild;
  if (first && items.length > 0) {
    first.replaceWith(lineOf(conversation.items[items.length], items.at(-1)));
  }
  page.log.prepend(...items.map((item, at) => lineOf(item, items[at - 1])));
  page.scroll.scrollTop = page.scroll.scrollHeight - fromEnd;
}

export function showPast(text) {
  page.past.hidden = text === '';
  page.past.textContent = text;
}

const WAITS = {
  unsent: 'Waiting for the connection',
  sent: 'Sending',
  held: 'Held until Redis is back',
};

/** What is not stored yet, behind the messages. `onGiveUp(id)` and `onAgain(id)` are buttons. */
export function showWaiting(conversation, onGiveUp, onAgain) {
  const lines = Array.from(conversation.waiting, ([id, entry]) => {
    const line = element('li', `message waits${entry.own ? ' own' : ''} ${entry.state}`);
    const bubble = element('div', 'bubble');
    const why = entry.state === 'failed' ? `Not stored: ${entry.why}` : WAITS[entry.state];
    bubble.append(element('span', 'who', entry.name), element('span', 'what', entry.text));
    bubble.append(element('span', 'when', why));
    if (entry.state === 'failed') {
      for (const [text, run] of [['Send again', onAgain], ['Discard', onGiveUp]]) {
        const button = element('button', 'link', text);
        button.type = 'button';
        button.addEventListener('click', () => run(id));
        bubble.append(button);
      }
    }
    line.append(avatar(entry.name), bubble);
    return line;
  });
  page.waiting.replaceChildren(...lines);
}

// --- Rooms and people -------------------------------------------------------------------------

const roomLines = new Map(); // name -> its elements, so that focus stays where it is.

export function showRooms(conversations, active, onOpen, onLeave) {
  for (const [name, { line }] of roomLines) {
    if (conversations.has(name)) continue;
    line.remove();
    roomLines.delete(name);
  }
  let unread = 0;
  for (const [name, conversation] of conversations) {
    if (!roomLines.has(name)) roomLines.set(name, roomLine(name, onOpen, onLeave));
    const { open, badge, line } = roomLines.get(name);
    const isActive = conversation === active;
    if (isActive) open.setAttribute('aria-current', 'page');
    else open.removeAttribute('aria-current');
    line.classList.toggle('refused', conversation.refused === true);
    const count = conversation.unread;
    badge.hidden = count === 0;
    badge.textContent = count > 99 ? '99+' : String(count);
    badge.setAttribute('aria-label', `${count} unread`);
    unread += count;
  }
  page.unreadAll.hidden = unread === 0;
  const where = active ? `${active.name} · ringcast` : 'ringcast';
  document.title = unread > 0 ? `(${unread}) ${where}` : where;
}

function roomLine(name, onOpen, onLeave) {
  const line = element('li', 'room');
  const open = element('button', 'open');
  const badge = element('span', 'badge');
  badge.setAttribute('role', 'img');
  open.append(element('span', 'hash', '#'), element('span', 'name', name), badge);
  open.firstChild.setAttribute('aria-hidden', 'true');
  open.title = name;
  const leave = element('button', 'leave', '×');
  leave.setAttribute('aria-label', `Leave ${name}`);
  leave.title = 'Leave';
  open.addEventListener('click', () => onOpen(name));
  leave.addEventListener('click', () => onLeave(name));
  line.append(open, leave);
  page.rooms.append(line);
  return { line, open, badge };
}

export function showPeople(conversation, ownId) {
  const people = [...conversation.people].sort(([, a], [, b]) => a.localeCompare(b));
  const lines = people.slice(0, PEOPLE_SHOWN_MAX).map(([id, name]) => {
    const line = element('li', '');
    line.append(avatar(name), element('span', 'name', name));
    if (id === ownId) line.append(element('span', 'you', 'you'));
    return line;
  });
  page.people.replaceChildren(...lines);
  const more = conversation.count - lines.length;
  page.peopleMore.hidden = more <= 0;
  page.peopleMore.textContent = `and ${more} more`;
  page.here.textContent = conversation.count > 0 ? `${conversation.count} here` : '';
}

export function showTyping(names) {
  const [first, second] = names;
  const text = names.length === 0 ? ''
    : names.length === 1 ? `${first} is typing`
      : names.length === 2 ? `${first} and ${second} are typing` : 'Several people are typing';
  if (page.typing.textContent !== text) page.typing.textContent = text;
}

// --- The connection ---------------------------------------------------------------------------

/** `off`, `wait`, `on` or `degraded`, and its words. Unchanged words are not told again. */
export function showState(state, text) {
  page.state.dataset.state = state;
  if (page.stateText.textContent !== text) page.stateText.textContent = text;
}

export function showBanner(tone, text, canRetry = false) {
  page.banner.hidden = text === '';
  page.banner.dataset.tone = tone;
  page.retry.hidden = !canRetry;
  if (page.bannerText.textContent !== text) page.bannerText.textContent = text;
}

export function showRoundTrip(ms) {
  const text = ms === null ? '–' : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  page.roundTrip.hidden = ms === null;
  page.roundTrip.textContent = page.roundTripLong.textContent = text;
}

/** The newest position, so that two windows can be compared. */
export function showOffset(position) {
  page.offset.textContent = position ? `#${position.offset}` : '–';
}

// --- What a screen reader is told: the newest words, not more often than they can be heard ------

let unsaid = [];
let saying = 0;

export function say(who, what) {
  unsaid.push(`${who}: ${what}`);
  if (unsaid.length > 100) unsaid.shift();
  if (saying === 0) speak();
}

function speak() {
  saying = 0;
  if (unsaid.length === 0) return;
  const last = unsaid.at(-1);
  page.says.textContent = unsaid.length < 3 ? unsaid.join('. ')
    : `${unsaid.length} new messages. The last is from ${last}`;
  unsaid = [];
  saying = setTimeout(speak, SAY_MS);
}

// --- Panels, which on narrow screens slide over the messages -------------------------------------

for (const side of ['rooms', 'people']) {
  const [panel, open, close] = [`${side}-panel`, `${side}-open`, `${side}-close`].map(byId);
  open.addEventListener('click', () => {
    document.body.dataset.panel = side;
    open.setAttribute('aria-expanded', 'true');
    page.shade.hidden = false;
    page.main.inert = true;
    close.focus();
  });
  close.addEventListener('click', () => closePanels(true));
  panel.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') closePanels(true);
  });
}
page.shade.addEventListener('click', () => closePanels(true));

export function closePanels(withFocus = false) {
  const side = document.body.dataset.panel;
  if (side === undefined) return;
  const open = byId(`${side}-open`);
  delete document.body.dataset.panel;
  open.setAttribute('aria-expanded', 'false');
  page.shade.hidden = true;
  page.main.inert = false;
  if (withFocus) open.focus();
}
