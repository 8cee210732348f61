"""The network between the server and the broker fails while messages flow."""

import random
import time

import pytest

from tests.blackbox.outsider import until
from tests.broker.tcp_proxy import BOTH, DOWN, UP


@pytest.fixture
def heartbeat():
    return 1


@pytest.fixture
def served(serve, vhost, tcp_proxy, crowd, heartbeat):
    """A server behind the proxy, with three members."""
    url = tcp_proxy.url(vhost.amqp_url) + f"?heartbeat={heartbeat}"
    found = serve(PARTYMQ_RABBIT_CS=url, PARTYMQ_PREFETCH="200").ready()
    crowd.urls.append(found.api.base)
    for number in range(3):
        crowd.join(f"pod-{number}")
    return found


def test_connections_cut_at_any_moment_lose_nothing(served, crowd, tcp_proxy):
    chooser = random.Random(7)
    with crowd.flow(400):
        for number in range(9):
            crowd.more(50)
            match number % 3:
                case 0:  # of coordinator, front, source: one
                    tcp_proxy.cut_one(number)
                case 1:
                    tcp_proxy.cut_after(chooser.randrange(1, 50_000), UP)
                    crowd.more(1)
                case 2:
                    tcp_proxy.cut_after(chooser.randrange(1, 100_000), DOWN)
                    crowd.more(1)
        tcp_proxy.cut()
        crowd.more(50)
    crowd.all_finished()


@pytest.mark.parametrize("direction", [UP, DOWN, BOTH])
def test_a_network_that_is_dead_in_one_direction_is_noticed_and_lived_through(
    served, crowd, tcp_proxy, direction
):
    with crowd.flow(300):
        crowd.more(50)
        tcp_proxy.pause(direction)
        until(
            lambda: served.api.get("/ready").status == 503,
            what=f"it is noticed that nothing goes {direction}",
        )
        tcp_proxy.resume(direction)
        crowd.more(200)
    crowd.all_finished()


@pytest.mark.parametrize("heartbeat", [10])
def test_what_goes_on_after_a_short_silence_repeats_nothing(served, crowd, tcp_proxy):
    with crowd.flow(300):
        crowd.more(50)
        tcp_proxy.pause(BOTH)
        time.sleep(0.6)
        tcp_proxy.resume(BOTH)
        crowd.more(100)
    assert crowd.all_finished().repeats == 0
