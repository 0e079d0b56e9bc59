// Never run: the compiler reads it, to show that the types fit their use.
import { connect, Ringcast, RingcastError, uuid, PROTOCOL } from '../ringcast.js';
import type { Message, Room, Stored } from '../ringcast.js';

const client: Ringcast = connect('wss://chat.example', {
  username: 'ann',
  token: async () => 'a.b.c',
  WebSocket,
});
const protocol: 'ringcast.v1' = PROTOCOL;
const room: Room = client.join('lobby', { presence: true, last: 50 });
const off: () => void = room.on('message', (message: Message) => {
  const offset: number = message.offset;
  console.log(protocol, offset, message.own, message.username?.length);
});
room.on('reset', ({ before }) => console.log(before?.offset));
client.on('state', ({ state, retryInMs }) => console.log(state === 'waiting' ? retryInMs : 0));
client.on('degraded', ({ degraded, reason }) => console.log(degraded, reason ?? ''));

export async function talk(): Promise<Stored> {
  await room.ready;
  const { members, count } = await room.members();
  const past = await room.history({ before: 10, limit: 5 });
  console.log(members[0]?.user_id, count, past?.messages[0]?.payload);
  try {
    return await room.publish({ text: 'hello', tags: [1, null] }, { id: uuid(), echo: false });
  } catch (error) {
    if (error instanceof RingcastError && error.code === 'outbox_full') off();
    throw error;
  } finally {
    // @ts-expect-error: there is no such event.
    room.on('mesage', () => {});
    // @ts-expect-error: JSON has no functions.
    void room.publish(() => {});
    client.close();
  }
}
