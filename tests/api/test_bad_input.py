"""Bad input gets a clear error, and nothing is lost: every row of the tables in mistakes/, with all operators running.

The mistakes that the apiserver takes are all made at once, before the first of them is looked at: what somebody else
did wrong is no excuse either. Then each is put right by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from all_operators import until
from kstatus import Told as KStatus
from kstatus import conditions, faults, kstatus
from mistakes import BYSTANDERS, IMMUTABLE, REFUSED, TOLD, Refused, Told
from scene import Scene, scene_of
from shorthand import Named, as_yaml, name_of

from lab.api import ApiServer


@pytest.fixture(scope="module")
def scene(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Everything is well."""
    with scene_of(apiserver, tmp_path_factory.mktemp("scene"), "bad") as scene:
        scene.by_kubectl("apply", given=[BYSTANDERS])
        given = [row.given for row in (*TOLD, *REFUSED) if row.given]
        scene.apply(*given)
        scene.until_current(BYSTANDERS, *given)
        yield scene


@pytest.fixture(scope="module")
def quiet(scene: Scene) -> dict[Named, str]:
    """The bystanders as they were before all mistakes, which now have been made."""
    before = scene.versions(BYSTANDERS)
    scene.apply(*(row.mistake for row in TOLD))
    return before


@pytest.mark.parametrize("row", TOLD, ids=lambda row: row.title)
def test_a_mistake_is_told_and_put_right(scene: Scene, quiet: dict[Named, str], row: Told) -> None:
    who = scene.named(row.who)

    def told() -> bool:
        ready = conditions(scene.get(who)).get("Ready", {})
        return ready.get("reason") == row.reason and kstatus(scene.get(who)) is expected

    expected = KStatus.FAILED if row.stalled else KStatus.IN_PROGRESS
    until(told, lambda: f"{who} does not say {row.reason}: {scene.get(who).get('status')}")
    seen = scene.get(who)
    message = conditions(seen)["Ready"]["message"]
    assert [word for word in scene.words(row.words) if word not in message] == [], message
    assert faults(seen) == []
    if row.stalled:
        assert row.reason in scene.warnings(who)
    if not row.goes_on:
        assert scene.held_by(seen["metadata"]["uid"]) == []
    if row.correction:
        if row.removed:
            scene.delete(*(f"{name}: {{}}" for name in row.removed))
        scene.apply(row.correction)
        scene.until_current(f"{row.who}: {{}}")
        assert faults(scene.get(who)) == []
    assert scene.versions(BYSTANDERS) == quiet


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.title)
def test_a_mistake_is_refused_by_kubectl_apply(scene: Scene, quiet: dict[Named, str], row: Refused) -> None:
    complaint = scene.kubectl.refused("apply", "-f", "-", given=as_yaml(scene.objects(row.mistake)))
    assert [word for word in scene.words(row.words) if word not in complaint] == [], complaint
    assert [str(obj) for obj in map(name_of, scene.objects(row.mistake)) if scene.get(obj)] == []
    if row.correction:
        scene.apply(row.correction)
        scene.until_current(row.correction)
    assert scene.versions(BYSTANDERS) == quiet


@pytest.mark.parametrize(
    ("change", "words"), IMMUTABLE, ids=[f"{words[0]} of {change.split(':')[0]}" for change, words in IMMUTABLE]
)
def test_what_must_not_change_stays(scene: Scene, quiet: dict[Named, str], change: str, words: tuple[str, ...]) -> None:
    complaint = scene.kubectl.refused("apply", "-f", "-", given=as_yaml(scene.objects(change)))
    assert [word for word in scene.words(words) if word not in complaint] == [], complaint
    assert scene.versions(BYSTANDERS) == quiet
