"""A group's state as bytes and back, as it is saved within the state message."""

import msgspec

from partymq.group.state import GroupState


def encode_state(state: GroupState) -> bytes:
    """The state as JSON."""
    return msgspec.json.encode(state)


def decode_state(payload: bytes) -> GroupState:
    """Inverse of `encode_state`."""
    return msgspec.json.decode(payload, type=GroupState)
