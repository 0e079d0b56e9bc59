// The page at `/`: one room, over the protocol ringcast.v1. A stand-in until the browser client
// comes, and small enough to read as an example: keep your position, come back with `since`, send
// again under the same id what was not acked, and wait a random time before you come back.

const byId = (id) => document.getElementById(id);
const page = {
  state: byId('state'), join: byId('join'), room: byId('room'), name: byId('name'),
  log: byId('log'), sending: byId('sending'), send: byId('send'), text: byId('text'),
  submit: byId('submit'),
};

const LINES_MAX = 500;
const BACKOFF_MS = 500;
const BACKOFF_MS_MAX = 20000;
const SENDING_MAX = 100;

let socket = null; // The one whose events count.
let room = null;
let username = null;
let position = null; // {epoch, offset} of the last message seen.
let tries = 0; // Since the last `joined`.
let retry = 0; // The timer of the next try.
let beat = 0; // The timer of the next ping.
const sending = new Map(); // id -> {payload, line}: published, not seen in the room's order yet.

// --- What is seen ---------------------------------------------------------------------------

function show(state, text) {
  page.state.dataset.state = state;
  page.state.textContent = text;
  const joined = state === 'on';
  page.text.disabled = page.submit.disabled = room === null;
  page.submit.textContent = joined ? 'Send' : 'Queue';
}

// Text is never markup: it only ever becomes the content of a text node.
function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function addLine(list, className, parts) {
  const line = element('li', className, '');
  line.append(...parts);
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(line);
  while (list.childElementCount > LINES_MAX) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
  return line;
}

const note = (text, className = 'note') =>
  addLine(page.log, className, [element('span', 'what', text)]);

function asText(payload) {
  return typeof payload === 'string' ? payload : JSON.stringify(payload);
}

function clock(sentAt) {
  const time = new Date(sentAt);
  return isNaN(time) ? '' : time.toLocaleTimeString();
}

function addMessage(frame, className, when) {
  addLine(page.log, className, [
    element('span', 'who', frame.username || frame.user_id || '?'),
    element('span', 'what', asText(frame.payload)),
    element('span', 'when', when),
  ]);
}

// --- What the server says -------------------------------------------------------------------

const on = {
  welcome(frame) {
    show('wait', `connected to ${frame.instance_id}, joining`);
    clearInterval(beat);
    // A socket that is dead without a word is found by a ping that gets no answer.
    let answered = true;
    const mine = socket;
    beat = setInterval(() => {
      if (!answered) return lost(mine, 'no answer');
      answered = false;
      tell({ type: 'ping' });
    }, Math.max(frame.heartbeat_ms || 25000, 1000));
    on.pong = () => { answered = true; };
  },
  pong() {},
  joined(frame) {
    tries = 0;
    const members = frame.members === undefined ? '' : `, ${frame.members} here`;
    show('on', `in ${frame.room}${members}`);
    if (frame.recovered === true) note('back, and nothing was missed');
    if (frame.recovered === false) note('some messages could not be had again', 'warn');
    if (frame.recovered === undefined) note(`joined at #${frame.offset}`);
    position = { epoch: frame.epoch, offset: frame.offset };
    // An unasked `joined` is a new epoch; else: what was not acked goes again, ids make it safe.
    if (frame.ref !== undefined) for (const [id, one] of sending) publish(id, one.payload);
  },
  message(frame) {
    if (position && frame.room === room) position.offset = frame.offset;
    const one = sending.get(frame.id);
    if (one) settle(frame.id);
    addMessage(frame, one ? 'mine' : '', `#${frame.offset} ${clock(frame.sent_at)}`);
  },
  ack(frame) {
    const one = sending.get(frame.id);
    if (one) one.line.lastElementChild.textContent = `stored as #${frame.offset}`;
    // Stored, and older than what is seen: its message was in a part that was skipped.
    if (one && position && frame.offset <= position.offset) settle(frame.id);
  },
  pending(frame) { addMessage(frame, 'note', 'held'); },
  signal() {},
  gap(frame) {
    if (position) position.offset = frame.to;
    note(`gap: #${frame.from} to #${frame.to} were skipped`, 'warn');
  },
  degraded(frame) {
    const words = frame.degraded ? 'degraded: messages are held' : 'no longer degraded';
    note(frame.reason ? `${words} (${frame.reason})` : words, 'warn');
  },
  going_away(frame) {
    note('the server is going away');
    const mine = socket;
    setTimeout(() => lost(mine, 'moving', 0), frame.reconnect_in_ms || 0);
  },
  error(frame) {
    note(`${frame.code}: ${frame.message}`, 'bad');
    const again = ['unavailable', 'overloaded', 'rate_limited', 'internal'].includes(frame.code);
    if (frame.ref === 'join') {
      return again ? lost(socket, frame.code) : stop(`could not join: ${frame.code}`);
    }
    const one = sending.get(frame.ref);
    if (!one) return;
    // What was only too early is sent again; what can't be stored as it is is not.
    if (!again) return settle(frame.ref);
    setTimeout(() => {
      if (sending.has(frame.ref)) publish(frame.ref, one.payload);
    }, 1000 + Math.random() * 4000);
  },
};

// --- Sending --------------------------------------------------------------------------------

function tell(frame) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
}

function publish(id, payload) {
  tell({ type: 'publish', room, payload, id, ref: id });
}

function settle(id) {
  sending.get(id).line.remove();
  sending.delete(id);
}

// crypto.randomUUID is only there on safe origins; this page is also used over plain LANs.
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

// --- The connection -------------------------------------------------------------------------

function connect() {
  clearTimeout(retry);
  show('wait', 'connecting');
  const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
  const mine = new WebSocket(`${scheme}//${location.host}/ws`, 'ringcast.v1');
  socket = mine;
  mine.onopen = () => {
    const join = { type: 'join', room, username, ref: 'join' };
    tell(position ? { ...join, since: position } : join);
  };
  mine.onmessage = (event) => {
    if (socket !== mine) return;
    const frame = JSON.parse(event.data);
    if (Object.hasOwn(on, frame.type)) on[frame.type](frame);
  };
  mine.onclose = (event) => lost(mine, event.reason || `closed with ${event.code}`);
}

// Full jitter: anything between now and the bound, so that many clients don't come back at once.
function lost(mine, why, bound = Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** tries)) {
  if (socket !== mine || mine === null) return;
  drop();
  tries += 1;
  const wait = Math.random() * bound;
  show('wait', `${why}; again in ${(wait / 1000).toFixed(1)} s`);
  retry = setTimeout(connect, wait);
}

function drop() {
  const old = socket;
  socket = null;
  clearInterval(beat);
  clearTimeout(retry);
  if (old) old.close();
}

function stop(why) {
  drop();
  room = null;
  show('off', why);
}

page.join.addEventListener('submit', (event) => {
  event.preventDefault();
  drop();
  if (page.room.value !== room) {
    position = null;
    page.log.replaceChildren();
    page.sending.replaceChildren();
    sending.clear();
  }
  room = page.room.value;
  username = page.name.value;
  tries = 0;
  connect();
  page.text.focus();
});

page.send.addEventListener('submit', (event) => {
  event.preventDefault();
  const payload = page.text.value;
  if (payload === '' || room === null) return;
  if (sending.size >= SENDING_MAX) return void note('too much is waiting to be stored', 'bad');
  const id = uuid();
  const line = addLine(page.sending, '', [
    element('span', 'what', payload),
    element('span', 'when', 'not stored yet'),
  ]);
  sending.set(id, { payload, line });
  page.text.value = '';
  if (page.state.dataset.state === 'on') publish(id, payload);
});

// Back on line, or looked at again: no need to sit out the wait.
for (const [target, name] of [[window, 'online'], [document, 'visibilitychange']]) {
  target.addEventListener(name, () => {
    if (room !== null && socket === null && !document.hidden) connect();
  });
}

const asked = new URLSearchParams(location.search);
if (asked.get('room')) page.room.value = asked.get('room');
page.name.value = asked.get('username') || `guest-${uuid().slice(0, 4)}`;
