// A real server for a test: the program named by RINGCAST_BIN, in a directory and on a port of its
// own, which it keeps over restarts.

import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

export const BIN = process.env.RINGCAST_BIN;

/** The WebSocket of Node 22 and later, or that of the package ws. */
export const WebSocket = globalThis.WebSocket ?? (BIN && (await import('ws')).WebSocket);

export class Program {
  #child = null;
  #flags;
  port = 0;

  /** Starts one that ends with the test. */
  static async start(t, flags = []) {
    const program = new Program();
    program.#flags = flags;
    program.dir = await mkdtemp(join(tmpdir(), 'ringcast-js-'));
    t.after(async () => {
      await program.end('SIGKILL');
      await rm(program.dir, { recursive: true, force: true });
    });
    await program.up();
    return program;
  }

  get url() { return `ws://127.0.0.1:${this.port}`; }

  async up() {
    const args = ['serve', '--port', String(this.port), '--shards', '2', '--pin-cores', 'off'];
    args.push('--ring-entries', '256', '--data-dir', this.dir, '--instance-id', 'test');
    const stdio = ['ignore', 'ignore', 'pipe'];
    const child = spawn(BIN, [...args, ...this.#flags], { env: {}, stdio });
    this.#child = child;
    const log = [];
    for await (const line of createInterface({ input: child.stderr })) {
      log.push(line);
      const port = /serving address=\S*:(\d+)/.exec(line)?.[1];
      if (port === undefined) continue;
      this.port = Number(port);
      child.stderr.resume();
      return;
    }
    throw new Error(`it does not serve:\n${log.join('\n')}`);
  }

  /** Ends it by a signal; its exit code. */
  async end(signal) {
    const child = this.#child;
    this.#child = null;
    if (child === null) return null;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    return ended;
  }
}
