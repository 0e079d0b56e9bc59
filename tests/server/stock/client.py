"""The package websockets against a server: `python client.py URL deflate|plain`.

Two clients in a room, of which one compresses; each gets all in order. With deflate also /echo,
under parameters of its own. Ends with 0 and a line `ok`, or says what failed.
"""
import json
import sys

from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

URL, DEFLATES = sys.argv[1], sys.argv[2] == "deflate"
COUNT = 60


def payload(n):
    return {"n": n, "text": "words that come again " * (n * 7 % 200), "Grüße": "€"}


def agreed(socket):
    return "permessage-deflate" in socket.response.headers.get("Sec-WebSocket-Extensions", "")


def join(compression):
    socket = connect(URL + "/ws", compression=compression, subprotocols=["ringcast.v1"])
    assert socket.subprotocol == "ringcast.v1"
    assert json.loads(socket.recv(20))["type"] == "welcome"
    socket.send('{"type":"join","room":"stock"}')
    assert json.loads(socket.recv(20))["type"] == "joined"
    return socket


def message(socket):
    while True:
        frame = json.loads(socket.recv(20))
        if frame["type"] == "message":
            return frame
        assert frame["type"] == "ack", frame


def room():
    one, other = join("deflate"), join(None)
    assert agreed(one) == DEFLATES and not agreed(other)
    for n in range(1, COUNT + 1):
        publish = {"type": "publish", "room": "stock", "payload": payload(n), "ref": n}
        (one if n % 2 else other).send(json.dumps(publish))
        for socket in (one, other):
            frame = message(socket)
            assert frame["offset"] == n and frame["payload"] == payload(n), frame
    one.close()
    other.close()
    assert one.close_code == other.close_code == 1000


def echo(**parameters):
    factory = ClientPerMessageDeflateFactory(**parameters)
    with connect(URL + "/echo", compression=None, extensions=[factory]) as socket:
        assert agreed(socket), parameters
        for n in range(40):
            text = json.dumps(payload(n))
            sent = text.encode() if n % 2 else text
            socket.send(sent)
            assert socket.recv(20) == sent, parameters


room()
if DEFLATES:
    for bits in (8, 9, 12, 15):
        for given_up in (True, False):
            # zlib makes and reads no raw stream of an 8-bit window.
            echo(
                server_max_window_bits=max(bits, 9),
                client_max_window_bits=max(bits, 9),
                server_no_context_takeover=given_up,
                client_no_context_takeover=given_up,
            )
    echo()
print("ok")
