"""Who may use what is shared, by scope, owner and tenant."""

from __future__ import annotations

from typing import Any

import pytest

from crds.access import Access, AccessScope
from operators.access import may_use

SHARED_WITH_ACME: dict[str, Any] = {"scope": "Shared", "tenants": ["acme"]}


@pytest.mark.parametrize(
    ("access", "owner", "may"),
    [
        # Private is the default.
        ({}, "acme", True),
        ({}, "other", False),
        ({}, None, False),
        # What is a tenant's own is never withheld from it by its own list.
        ({"scope": "Shared", "tenants": ["third"]}, "acme", True),
        ({"scope": "Shared"}, "acme", True),
        (SHARED_WITH_ACME, "other", True),
        (SHARED_WITH_ACME, None, True),
        ({"scope": "Shared", "tenants": ["third"]}, "other", False),
        ({"scope": "Shared", "tenants": ["acme-2", "ACME", "acm"]}, "other", False),
        ({"scope": "Shared"}, "other", False),
        ({"scope": "Community"}, "other", True),
        ({"scope": "Community"}, None, True),
        ({"scope": "Public"}, "other", True),
        ({"scope": "Public"}, None, True),
        # A list that a scope does not have (a stored object from before the rule) opens nothing.
        ({"scope": "Private", "tenants": ["acme"]}, "other", False),
    ],
)
def test_acme_may_use(access: dict[str, Any], owner: str | None, may: bool) -> None:
    assert may_use(Access.model_validate(access), owner, "acme") is may


@pytest.mark.parametrize("scope", list(AccessScope))
def test_every_scope_is_judged(scope: AccessScope) -> None:
    assert may_use(Access(scope=scope), "acme", "acme") is True
    assert may_use(Access(scope=scope), "other", "acme") is (scope in (AccessScope.COMMUNITY, AccessScope.PUBLIC))
