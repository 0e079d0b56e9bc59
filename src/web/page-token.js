// The token that the page shows, where the server asks for one.
//
// It comes by the address's fragment (`/#token=…`), which no request carries and where it does not
// stay, or by a field. It is kept by this page's client alone: no storage has it, so a reload asks
// for it again. A new one takes the old one's place on the connection that is open (`refresh`).

import { page } from './page-view.js';

/** A token out of the fragment, which is taken away. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  if (given === null) return undefined;
  history.replaceState(history.state, '', location.pathname + location.search);
  return given || undefined;
}

/** Whether the server lets in who shows that, or nothing. True if it does not say. */
async function isLetIn(token) {
  try {
    const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
    const { status } = await fetch('/api/rooms?limit=1', { headers, cache: 'no-store' });
    return status !== 401;
  } catch {
    return true;
  }
}

function ask(why) {
  page.tokenWhy.textContent = why;
  page.token.hidden = false;
}

/**
 * Has the client show `token`, and asks for another one when that is no good. `told` gets a text
 * and its tone, when there is something to say.
 */
export function showToken(client, token, told) {
  let current = token;
  let opened = false;

  async function look() {
    const looked = current;
    if (await isLetIn(looked) || looked !== current) return;
    ask(looked === undefined ? 'This server asks for a token.' : 'This token is no good here.');
  }

  async function take(given) {
    current = given;
    page.newToken.value = '';
    page.token.hidden = true;
    try {
      if (await client.refresh(given)) return told('The token was renewed', 'good');
      if (client.state === 'stopped') client.connect();
      else client.wake();
    } catch (error) {
      // A connection that went away meanwhile comes back with the new one.
      if (error.code !== 'disconnected') ask(`This token was not taken: ${error.message}.`);
    }
    return undefined;
  }

  page.token.addEventListener('submit', (event) => {
    event.preventDefault();
    take(page.newToken.value.trim());
  });
  addEventListener('hashchange', () => {
    const given = takeToken();
    if (given !== undefined) take(given);
  });
  client.on('state', ({ state, code }) => {
    if (state === 'open') {
      opened = true;
      page.token.hidden = true;
    } else if (state === 'stopped' && code === 4001) {
      ask('The token has ended: give the next one.');
    } else if (state === 'waiting' && (!opened || current !== undefined)) {
      look(); // A browser does not say that it was refused by 401.
    }
  });
  look();
}
