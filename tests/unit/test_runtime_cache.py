"""The cache: versions, deletions, relists, indexes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cache import Cache, Key
from runtime.cluster import merge_diff, trimmed
from runtime.kind import NAMESPACE, SECRET


def secret(name: str, version: int, uid: str = "", **labels: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "a", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": {**meta, "labels": labels}}


def cache() -> Cache[dict[str, Any]]:
    return Cache(SECRET, lambda obj: obj, {"colour": lambda o: [o["metadata"]["labels"].get("colour")]})


def names(found: list[dict[str, Any]]) -> list[str]:
    return sorted(o["metadata"]["name"] for o in found)


def test_an_older_version_never_replaces_a_newer_one() -> None:
    c = cache()
    c.observe(secret("x", 5, colour="red"))
    c.observe(secret("x", 4, colour="blue"))
    assert names(c.find("colour", "red")) == ["x"]
    assert c.find("colour", "blue") == []


def test_an_object_filed_twice_under_one_value_leaves_no_trace() -> None:
    c: Cache[dict[str, Any]] = Cache(SECRET, lambda obj: obj, {"letter": lambda o: o["metadata"]["labels"]["letters"]})
    for version, letters in ((5, "aab"), (6, "abb"), (7, "cc")):
        c.observe(secret("x", version, letters=letters))
        assert names(c.find("letter", letters[0])) == ["x"]
    c.forget(secret("x", 7, letters="cc"))
    assert [c.find("letter", letter) for letter in "abc"] == [[], [], []]


def test_a_change_moves_the_object_in_the_index() -> None:
    c = cache()
    c.observe(secret("x", 5, colour="red"))
    c.observe(secret("x", 6, colour="blue"))
    assert c.find("colour", "red") == []
    assert names(c.find("colour", "blue")) == ["x"]


def test_a_late_answer_does_not_bring_a_deleted_object_back() -> None:
    c = cache()
    c.observe(secret("x", 5))
    c.forget(secret("x", 7))
    c.observe(secret("x", 6))
    assert c.get("x", "a") is None
    c.observe(secret("x", 9, uid="another"))
    assert c.get("x", "a") is not None


def test_the_deletion_of_a_predecessor_leaves_the_successor() -> None:
    c = cache()
    c.observe(secret("x", 9, uid="new"))
    c.forget(secret("x", 8, uid="old"))
    assert c.get("x", "a") is not None


def test_a_relist_tells_of_deletions_nobody_saw_and_keeps_what_is_newer() -> None:
    c = cache()
    seen: list[tuple[str, bool, bool]] = []
    c.observe(secret("kept", 3))
    c.observe(secret("lost", 4))
    c.observe(secret("fresh", 12))  # the answer to an own write, newer than the list
    c.on_change(lambda key, old, new: seen.append((key.name, old is not None, new is not None)))
    c.relist([secret("kept", 3), secret("added", 9)], version=10)
    assert names(list(c)) == ["added", "fresh", "kept"]
    assert seen == [("added", False, True), ("lost", True, False)]
    assert c.synced.is_set()


def test_keys_and_paths() -> None:
    assert str(Key("a", "x")) == "a/x"
    assert str(Key("", "x")) == "x"
    assert SECRET.path("a", "x") == "/api/v1/namespaces/a/secrets/x"
    assert SECRET.path() == "/api/v1/secrets"
    assert NAMESPACE.path(None, "x", "status") == "/api/v1/namespaces/x/status"


def test_trimmed_leaves_out_what_nobody_reads() -> None:
    obj = {
        "metadata": {
            "name": "x",
            "managedFields": [1],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "1"},
        }
    }
    assert trimmed(obj) == {"metadata": {"name": "x", "annotations": {"mine": "1"}}}


JSON = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=2), JSON, max_size=4)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, as written there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


@given(OBJECTS, OBJECTS)
def test_a_merge_diff_applied_gives_the_new_object(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merge(old, merge_diff(old, new)) == new
    assert merge_diff(new, new) == {}


def test_an_object_that_cannot_be_read_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def project(obj: dict[str, Any]) -> int:
        return int(obj["metadata"]["labels"]["number"])

    c = Cache(SECRET, project)
    c.observe(secret("x", 1, number="1"))
    c.observe(secret("x", 2, number="many"))
    c.observe(secret("x", 3, number="many"))
    c.relist([secret("x", 3, number="many"), secret("y", 2, number="?"), secret("z", 2, number="26")], 4)
    assert (c.get("x", "a"), c.get("y", "a"), c.get("z", "a")) == (1, None, 26), "what was seen of x stays"
    assert [record.getMessage() for record in caplog.records] == [
        "a/x: Secret uid-x cannot be read and is passed over",
        "a/y: Secret uid-y cannot be read and is passed over",
    ]
    c.observe(secret("x", 5, number="5"))
    assert c.get("x", "a") == 5
    assert c.newest == 5
