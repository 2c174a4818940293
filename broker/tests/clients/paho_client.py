"""A paho-mqtt client that does what a device or a person's terminal does, once; exits 0 if all of it worked.

Arguments: host, port, transport (tcp or websockets), authority (PEM, or - for none), version (4 or 5), name, token.
"""
import queue
import sys

import paho.mqtt.client as mqtt

PATIENCE_S = 20


def main(host, port, transport, authority, version, name, token):
    happened = queue.Queue()
    protocol = mqtt.MQTTv5 if version == "5" else mqtt.MQTTv311
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "paho", protocol=protocol, transport=transport)
    client.username_pw_set(name, token)
    if authority != "-":
        client.tls_set(authority)
    client.on_connect = lambda _c, _u, _f, reason, _p: happened.put(("connected", str(reason)))
    client.on_subscribe = lambda _c, _u, _id, codes, _p: happened.put(("subscribed", [code.value for code in codes]))
    client.on_publish = lambda _c, _u, _id, reason, _p: happened.put(("promised", reason.value))
    client.on_message = lambda _c, _u, message: happened.put(("received", message.topic, message.payload, message.qos))
    client.connect(host, int(port), keepalive=30)
    client.loop_start()

    def expect(*wanted):
        found = happened.get(timeout=PATIENCE_S)
        assert found == wanted, f"{found} instead of {wanted}"

    if token == "wrong":
        what, reason = happened.get(timeout=PATIENCE_S)
        assert what == "connected" and reason.lower() == "bad user name or password", reason
        return
    expect("connected", "Success")
    client.subscribe(f"ft/{name}/down/#", qos=1)
    expect("subscribed", [1])
    # The core of the test owes it back.
    client.publish(f"ft/{name}/up/health-check", b"there?", qos=1)
    first, second = happened.get(timeout=PATIENCE_S), happened.get(timeout=PATIENCE_S)
    received = ("received", f"ft/{name}/down/health-check", b"there?", 1)
    assert {first, second} == {("promised", 0), received}, (first, second)
    for _ in range(100):
        client.publish(f"ft/{name}/up/status-request", bytes(8000), qos=1)
    for _ in range(100):
        expect("promised", 0)
    client.disconnect()
    client.loop_stop()


main(*sys.argv[1:])
