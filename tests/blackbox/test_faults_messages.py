"""Messages with something special arrive as they are, straight and by way of a dead member's queue."""

import pika
import pytest

from tests.blackbox.conftest import SOURCE
from tests.blackbox.outsider import until

BIG = 20 * 2**20


@pytest.fixture
def foreigner(vhost):
    """A channel of a user who is not PartyMQ's."""
    name = f"foreigner-{vhost.name}"
    vhost.api("PUT", f"users/{name}", {"password": "p", "tags": ""})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    vhost.api("PUT", f"permissions/{vhost.name}/{name}", everything)
    url = vhost.amqp_url.replace("guest:guest", f"{name}:p")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened
    vhost.api("DELETE", f"users/{name}")


def specials(foreign_user):
    key = {"partitionKey": "k"}
    return [
        (b"", pika.BasicProperties(headers=key, delivery_mode=2)),
        (b"\xce" * BIG, pika.BasicProperties(headers=key, delivery_mode=2)),
        (b"user", pika.BasicProperties(headers=key, user_id=foreign_user)),
        (b"soon", pika.BasicProperties(headers=key, expiration="600000")),
        (b"copies", pika.BasicProperties(headers={**key, "CC": ["elsewhere", SOURCE, "partymq.none"]})),
        (b"many", pika.BasicProperties(headers={**key, **{f"h{n}": "x" * 100 for n in range(600)}})),
        (b"nothing", pika.BasicProperties(headers=key)),
    ]


@pytest.mark.parametrize("by_way_of_the_dead", [False, True])
def test_special_messages_arrive_as_they_are(
    serve, members, channel, foreigner, vhost, diary, by_way_of_the_dead
):
    api = serve().ready().api
    channel.queue_declare("elsewhere", durable=True)
    if by_way_of_the_dead:
        doomed = members(api, "pod-0", work=1.0, prefetch=1)
        for body in (b"busy", b"busy too"):
            channel.basic_publish("", SOURCE, body, pika.BasicProperties(headers={"partitionKey": "k"}))
    sent = specials(f"foreigner-{vhost.name}")
    for body, properties in sent:
        foreigner.basic_publish("", SOURCE, body, properties)
    if by_way_of_the_dead:
        until(lambda: diary.entries(), what="pod-0 has worked")
        doomed.die()
    members(api, "pod-1")

    until(lambda: len({handled.body for handled in diary.of("pod-1")}) >= len(sent), what="all arrived")
    arrived = {handled.body: handled for handled in diary.of("pod-1")}
    for body, properties in sent:
        got = arrived[body].properties
        expected = dict(properties.headers)
        if body == b"user":
            assert got.user_id is None
            expected["x-partymq-user-id"] = properties.user_id
        headers = dict(got.headers)
        headers.pop("x-partymq-redelivered", None)  # what was on its way to the dead may have been seen
        assert headers == expected
        assert (got.delivery_mode, got.expiration) == (properties.delivery_mode, properties.expiration)
    order = [handled.body for handled in diary.of("pod-1")]
    assert order[-len(sent) :] == [body for body, _ in sent]
    assert channel.queue_declare("elsewhere", passive=True).method.message_count == 1
