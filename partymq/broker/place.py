"""A node's place in a private cluster."""

from dataclasses import dataclass, field

_FORMATION = "cluster_formation"


@dataclass(frozen=True)
class Place:
    """What a node has to know to find the others when it starts, in any order, and at the same time too.

    Attributes:
        name: of its Erlang node.
        names: of all of them.
        epmd_port: of the port mapper that serves all of them, and outlives each.
        cookie: their common one.
        net_ticktime: seconds after which a silent node is gone for the others, give or take a quarter; None:
            Erlang's 60.
    """

    name: str
    names: tuple[str, ...]
    epmd_port: int
    cookie: str = field(repr=False)
    net_ticktime: int | None = None

    def config(self) -> dict[str, str]:
        """Lines of rabbitmq.conf."""
        config = {f"{_FORMATION}.peer_discovery_backend": "classic_config"}
        for number, name in enumerate(self.names, 1):
            config[f"{_FORMATION}.classic_config.nodes.{number}"] = name
        config["cluster_name"] = self.names[0]
        config["cluster_partition_handling"] = "pause_minority"
        return config

    @property
    def erlang_arguments(self) -> str:
        """More of them for the node."""
        return f"-kernel net_ticktime {self.net_ticktime}" if self.net_ticktime is not None else ""
