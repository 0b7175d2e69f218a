"""What stands in the authority is read as it was written, and what newer nodes say of themselves by older ones."""

import json

import msgspec
import pytest

from storage.membership import values
from storage.membership.keys import decode, encode, key_of


def test_the_presence_of_a_newer_node_is_that_of_a_node_that_lives():
    presence = values.Presence(
        "n1", 7, ("127.0.0.1:7400",), stranded=(values.Stranded(1, 2, 2, 9),)
    )
    told = json.loads(encode(presence))
    told["moons"] = 3
    told["stranded"][0]["tides"] = "high"
    assert decode(key_of(presence), json.dumps(told).encode()) == presence


def test_what_decides_is_not_read_by_who_does_not_understand_it():
    epoch = values.Epoch(1, 3, "n1", ("n1", "n2"))
    told = json.loads(encode(epoch)) | {"moons": 3}
    with pytest.raises((msgspec.ValidationError, ValueError)):
        decode(key_of(epoch), json.dumps(told).encode())
