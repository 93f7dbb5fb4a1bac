"""A stand-in for Terraform's provider hashicorp/google, so that `terraform validate` and `plan` work offline.

The real one would have to be downloaded. This one knows the arguments of the resources that `deploy/` uses,
and plans what was asked; it applies nothing. Terraform finds it by TF_REATTACH_PROVIDERS, on loopback, and
speaks its plugin protocol 6 with it, whose messages are written here field by field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import msgspec

# Required, optional and computed arguments of each resource, as hashicorp/google has them in 6.50 and in 8.7.
RESOURCES: dict[str, tuple[str, str, str]] = {
    "google_bigquery_dataset": (
        "dataset_id",
        "default_collation default_partition_expiration_ms default_table_expiration_ms"
        " delete_contents_on_destroy description friendly_name is_case_insensitive labels location"
        " max_time_travel_hours project resource_tags storage_billing_model",
        "creation_time effective_labels etag id last_modified_time self_link terraform_labels",
    ),
    "google_bigquery_dataset_iam_member": ("dataset_id member role", "project", "etag id"),
    "google_project_iam_member": ("member project role", "", "etag id"),
    "google_project_service": ("service", "disable_dependent_services disable_on_destroy project", "id"),
    "google_service_account": (
        "account_id",
        "create_ignore_already_exists description disabled display_name project",
        "email id member name unique_id",
    ),
    "google_service_account_iam_member": ("member role service_account_id", "", "etag id"),
}
# What is not a string.
TYPES: dict[str, Any] = {
    "create_ignore_already_exists": "bool",
    "creation_time": "number",
    "default_partition_expiration_ms": "number",
    "default_table_expiration_ms": "number",
    "delete_contents_on_destroy": "bool",
    "disable_dependent_services": "bool",
    "disable_on_destroy": "bool",
    "disabled": "bool",
    "effective_labels": ["map", "string"],
    "is_case_insensitive": "bool",
    "labels": ["map", "string"],
    "last_modified_time": "number",
    "resource_tags": ["map", "string"],
    "terraform_labels": ["map", "string"],
}
UNKNOWN = msgspec.msgpack.Ext(0, b"\0")


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a place, and the place after it."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def field(number: int, value: bytes | str | bool) -> bytes:
    """A field of a protobuf message: a flag, or bytes."""
    if isinstance(value, bool):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message: bytes) -> dict[int, Any]:
    """The fields of a message by number; of a repeated one the last."""
    found: dict[int, Any] = {}
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        value, at = read_varint(message, at)
        if key & 7 == 2:
            found[key >> 3], at = message[at : at + value], at + value
        else:
            found[key >> 3] = value
    return found


def schema(required: str, optional: str, computed: str) -> bytes:
    """tfplugin6.Schema. In an attribute 4 is required, 5 optional, 6 computed."""
    attributes = b"".join(
        field(2, field(1, name) + field(2, json.dumps(TYPES.get(name, "string"))) + field(kind, value=True))
        for kind, names in ((4, required), (5, optional), (6, computed))
        for name in names.split()
    )
    return field(2, attributes)


def schemas(_: bytes) -> bytes:
    resources = (
        field(2, field(1, name) + field(2, schema(*arguments))) for name, arguments in RESOURCES.items()
    )
    return field(1, schema("", "project", "")) + b"".join(resources)


def plan(request: bytes) -> bytes:
    """What is asked for, with what only Google could tell as unknown, but for an account's address."""
    asked = fields(request)
    state = msgspec.msgpack.decode(fields(asked[3])[1])
    if state is not None:
        for name in RESOURCES[asked[1].decode()][2].split():
            state[name] = UNKNOWN
        if "account_id" in state:
            state["email"] = f"{state['account_id']}@{state['project']}.iam.gserviceaccount.com"
    return field(1, field(1, msgspec.msgpack.encode(state)))


def nothing(_: bytes) -> bytes:
    return b""


METHODS: dict[str, Callable[[bytes], bytes]] = {
    "GetProviderSchema": schemas,
    "ValidateProviderConfig": nothing,
    "ValidateResourceConfig": nothing,
    "ConfigureProvider": nothing,
    "PlanResourceChange": plan,
    "StopProvider": nothing,
}


class _Handler(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        service, _, name = handler_call_details.method.strip("/").partition("/")
        if service != "tfplugin6.Provider" or name not in METHODS:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: METHODS[name](request))


@contextmanager
def running_provider() -> Iterator[dict[str, str]]:
    """The stand-in while it runs: the environment variables that Terraform needs."""
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((_Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    place = {
        "Protocol": "grpc",
        "ProtocolVersion": 6,
        "Pid": os.getpid(),
        "Test": True,
        "Addr": {"Network": "tcp", "String": f"127.0.0.1:{port}"},
    }
    try:
        yield {
            "TF_REATTACH_PROVIDERS": json.dumps({"registry.terraform.io/hashicorp/google": place}),
            "CHECKPOINT_DISABLE": "1",
        }
    finally:
        server.stop(0).wait(5)
