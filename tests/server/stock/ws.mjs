// The package ws against a server: `node ws.mjs PACKAGE URL deflate|plain`, where PACKAGE is the
// folder of the package, and URL such as ws://127.0.0.1:8080.
//
// Two clients in a room, of which one compresses; each gets all in order. With deflate also /echo,
// under all the parameters that the package knows. Ends with 0 and a line `ok`, or says what
// failed.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [, , folder, url, mode] = process.argv;
const { WebSocket } = createRequire(import.meta.url)(folder);
const deflates = mode === 'deflate';
const COUNT = 60;

/** A socket whose messages can be awaited one by one. */
async function open(path, options, protocols = []) {
  const socket = new WebSocket(url + path, protocols, options);
  const came = [];
  let wake = () => {};
  socket.on('message', (data, isBinary) => { came.push({ data, isBinary }); wake(); });
  socket.on('close', (code) => { came.push({ code }); wake(); });
  await new Promise((resolve, reject) => { socket.on('open', resolve).on('error', reject); });
  const next = async () => {
    while (came.length === 0) await new Promise((resolve) => { wake = resolve; });
    return came.shift();
  };
  return { socket, next };
}

/** A client of the protocol. */
async function join(options) {
  const { socket, next } = await open('/ws', options, ['ringcast.v1']);
  const frame = async () => {
    const { data, code } = await next();
    assert.equal(code, undefined, `closed with ${code}`);
    return JSON.parse(data);
  };
  assert.equal(socket.protocol, 'ringcast.v1');
  assert.equal((await frame()).type, 'welcome');
  socket.send('{"type":"join","room":"stock"}');
  assert.equal((await frame()).type, 'joined');
  const message = async () => {
    for (;;) {
      const it = await frame();
      if (it.type === 'message') return it;
      assert.equal(it.type, 'ack');
    }
  };
  return { socket, message, next };
}

const payload = (n) => ({ n, text: 'words that come again '.repeat(n * 7 % 200), Grüße: '€' });

async function room() {
  const one = await join({ perMessageDeflate: deflates && { threshold: 0 } });
  const other = await join({ perMessageDeflate: false });
  assert.equal(one.socket.extensions.includes('permessage-deflate'), deflates);
  assert.equal(other.socket.extensions, '');
  for (let n = 1; n <= COUNT; n += 1) {
    const { socket } = n % 2 === 0 ? one : other;
    const publish = { type: 'publish', room: 'stock', payload: payload(n), ref: n };
    socket.send(JSON.stringify(publish));
    for (const { message } of [one, other]) {
      const it = await message();
      assert.equal(it.offset, n);
      assert.deepEqual(it.payload, payload(n));
    }
  }
  for (const { socket, next } of [one, other]) {
    socket.close(1000);
    for (;;) if ((await next()).code !== undefined) break;
  }
}

async function echo(options) {
  const { socket, next } = await open('/echo', { perMessageDeflate: { threshold: 0, ...options } });
  assert(socket.extensions.includes('permessage-deflate'), JSON.stringify(options));
  for (let n = 0; n < 40; n += 1) {
    const text = JSON.stringify(payload(n));
    const isBinary = n % 2 === 1;
    socket.send(isBinary ? Buffer.from(text) : text);
    const came = await next();
    assert.equal(came.isBinary, isBinary);
    assert.equal(came.data.toString(), text);
  }
  socket.close();
}

await room();
if (deflates) {
  for (const bits of [8, 9, 12, 15]) {
    for (const given of [true, false]) {
      await echo({
        serverMaxWindowBits: bits,
        clientMaxWindowBits: bits,
        serverNoContextTakeover: given,
        clientNoContextTakeover: given,
      });
    }
  }
  await echo({});
}
console.log('ok');
