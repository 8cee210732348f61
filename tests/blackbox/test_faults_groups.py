"""Two servers, each with many groups of every kind; the same hostnames in all of them; and the same faults.

In every group a member dies with messages in its queue, and the server that coordinates is killed.
"""

import itertools
import json
import signal
from collections import Counter

import pika
import pytest

from tests.blackbox.conftest import Served
from tests.blackbox.outsider import Answer, Api, Diary, Member, until
from tests.broker.management import delete_vhost
from tests.conftest import new_vhost

KEYS, ROUNDS = 12, 15

GROUPS = """
[groups.default]
prefetch = 2
[groups.ten]
source_queue = "s.ten"
prefetch = 10
window = "0s"
[groups.body]
source_queue = "s.body"
key = { source = "body", name = "customer.id" }
[groups.routing-key]
source_exchange = "topics"
source_binding_keys = ["key.*"]
key = { source = "routing_key" }
[groups.property]
source_queue = "s.property"
key = { source = "property", name = "correlation_id" }
[groups.spread]
source_queue = "s.spread"
key = { name = "none" }
[groups.fixed]
source_queue = "s.fixed"
key = { name = "none", missing = "fixed" }
[groups.reject]
source_queue = "s.reject"
key = { missing = "reject" }
[groups.quorum]
source_queue = "s.quorum"
[groups.declared]
source_queue = "s.declared"
source_declare = true
source_queue_type = "quorum"
[groups.alone]
source_queue = "s.alone"
[groups.priority]
source_queue = "s.priority"
"""
# A member that dies in the moment of the takeover is missed only when its heartbeats are.
HEARTBEAT = 'heartbeat = { check_interval = "250ms", expires_after = "15s" }'
NAMES = [line[8:-1] for line in GROUPS.splitlines() if line.startswith("[groups.")]
ARGUMENTS = {
    "quorum": {"x-queue-type": "quorum"},
    "alone": {"x-single-active-consumer": True},
    "priority": {"x-max-priority": 5},
}


class GroupApi(Api):
    """The API of one group, on any server that answers."""

    def __init__(self, group, servers):
        super().__init__("")
        self.group, self.servers = group, servers

    def call(self, hostname, verb, body=None):
        answer = Answer(503, None, {})
        for served in self.servers:
            try:
                answer = served.api.post(f"/groups/{self.group}/clients/{hostname}/{verb}", body)
            except OSError:
                continue
            if answer.status != 503:
                break
        return answer


class Group:
    """One group's members, and what they have handled."""

    def __init__(self, name, amqp_url, servers):
        self.name, self.diary = name, Diary()
        self.members = {}
        self._api, self._amqp_url = GroupApi(name, servers), amqp_url

    def join(self, hostname, **options):
        member = Member(self._api, self._amqp_url, hostname, self.diary, **options)
        member.queue = f"{self.name}.{hostname}"
        self.members[hostname] = member.join()

    def at_work(self):
        """A member with work in its queue: the slow one, where it can have any."""
        if self.name == "fixed":
            return next((handled.member for handled in self.diary.entries()), None)
        return "pod-b" if self.diary.of("pod-b") else None

    def handled(self):
        return [(json.loads(each.body), each) for each in self.diary.entries()]

    def numbers(self):
        return Counter((body["customer"]["id"], body["number"]) for body, _ in self.handled())

    def publish(self, channel, rounds):
        exchange = "topics" if self.name == "routing-key" else ""
        queue = "partymq.q.source" if self.name == "default" else f"s.{self.name}"
        for number, key in itertools.product(rounds, range(KEYS)):
            body = {"customer": {"id": f"k{key}"}, "number": number}
            headers = {"partitionKey": f"k{key}"}
            if self.name == "reject" and key == 0:
                headers = {}
            channel.basic_publish(
                exchange,
                f"key.k{key}" if exchange else queue,
                json.dumps(body).encode(),
                pika.BasicProperties(delivery_mode=2, headers=headers, correlation_id=f"k{key}"),
                mandatory=True,
            )


@pytest.fixture(scope="module")
def groups(node, tmp_path_factory):
    """All groups, when everything has happened and every message has been handled."""
    vhost = new_vhost(node)
    folder = tmp_path_factory.mktemp("groups")
    lines = (f"{line}\n{HEARTBEAT}" if line.startswith("[") else line for line in GROUPS.splitlines())
    (folder / "groups.toml").write_text("\n".join(lines))
    with pika.BlockingConnection(pika.URLParameters(vhost.amqp_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.exchange_declare("topics", "topic", durable=True)
        channel.queue_declare("partymq.q.source", durable=True)
        for name in NAMES:
            if name not in ("default", "routing-key", "declared"):
                channel.queue_declare(f"s.{name}", durable=True, arguments=ARGUMENTS.get(name))
        servers = [
            Served(vhost, folder / f"serve-{number}.log", PARTYMQ_CONFIG=str(folder / "groups.toml")).start()
            for number in range(2)
        ]
        found = {name: Group(name, vhost.amqp_url, servers) for name in NAMES}
        try:
            for served in servers:
                served.ready()
            for group in found.values():
                group.join("pod-a")
                group.join("pod-b", work=0.01, prefetch=3)
            half = ROUNDS // 2
            for group in found.values():
                group.publish(channel, range(half))
            for group in found.values():
                doomed = until(group.at_work, what=f"{group.name}: pod-b has work")
                group.members[doomed].die()
            servers[0].end(signal.SIGKILL)
            for group in found.values():
                group.publish(channel, range(half, ROUNDS))
            for group in found.values():
                group.join("pod-c")
                until(
                    lambda group=group: (
                        len(group.numbers()) >= KEYS * ROUNDS - ROUNDS * (group.name == "reject")
                    ),
                    what=lambda group=group: (
                        f"{group.name}: all handled, of {KEYS * ROUNDS}: {len(group.numbers())}"
                    ),
                )
            found["rejected"] = [
                channel.basic_get("partymq.reject.q.dead-letter", auto_ack=True) for _ in range(ROUNDS + 1)
            ]
            yield found
        finally:
            for group in found.values():
                if isinstance(group, Group):
                    for member in group.members.values():
                        member.die()
            for served in servers:
                if served.process.poll() is None:
                    served.process.kill()
                    served.process.wait()
    delete_vhost(vhost.management_url, vhost.name)


@pytest.mark.parametrize("name", NAMES)
def test_a_group_of_any_kind_keeps_its_promises(groups, name):
    group = groups[name]
    works = {}
    for body, handled in sorted(group.handled(), key=lambda each: each[1].began):
        works.setdefault(body["customer"]["id"], []).append((body["number"], handled))
    if name == "reject":
        assert "k0" not in works
    for key, each in works.items():
        assert {number for number, _ in each} == set(range(ROUNDS)), key
        if name == "spread":
            continue
        newest = -1
        for number, _ in each:
            assert number <= newest + 1, f"{key}: {number} after {newest}"
            newest = max(newest, number)
        for (_, earlier), (_, later) in itertools.pairwise(each):
            assert earlier.member == later.member or earlier.ended <= later.began, f"{key}: two at once"


def test_rejected_messages_say_why(groups):
    *rejected, none = groups["rejected"]
    assert none[0] is None
    for number, (_, properties, body) in enumerate(rejected):
        assert json.loads(body) == {"customer": {"id": "k0"}, "number": number}
        assert properties.correlation_id == "k0"
        assert properties.headers["x-partymq-group"] == "reject"
        assert properties.headers["x-partymq-routing-key"] == "s.reject"
        assert properties.headers["x-partymq-exchange"] == ""
        assert properties.headers["x-partymq-reason"]


def test_the_routing_key_is_kept_where_it_is_the_key(groups):
    for body, handled in groups["routing-key"].handled():
        assert handled.properties.headers["x-partymq-routing-key"] == "key." + body["customer"]["id"]
