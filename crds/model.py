"""The base of every object in the API, and how it is read and written."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from crds.markers import RULES_KEY, Rule
from crds.naming import api_name


class Model(BaseModel):
    """An object of the API. Python names are snake_case, the API's are camelCase; both are accepted when reading.

    Unknown fields are ignored when reading, so that an older program can read what a newer one wrote; the apiserver
    refuses them from users. A field whose default is a value is defaulted by the apiserver too; a field with a
    `default_factory` is simply absent there.
    """

    model_config = ConfigDict(alias_generator=api_name, populate_by_name=True, extra="ignore", validate_default=False)

    RULES: ClassVar[tuple[Rule, ...]] = ()
    """CEL rules that the apiserver applies to the whole object."""

    def to_dict(self) -> dict[str, Any]:
        """The object as JSON-ready dicts with the API's names, without what is unset.

        Left out are fields that are None, and empty objects, lists, maps and strings that nobody set on purpose.
        """
        dumped: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        _drop_unset(self, dumped)
        return dumped

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        if cls.RULES:
            own = handler.resolve_ref_schema(schema)
            own[RULES_KEY] = [*own.get(RULES_KEY, []), *(rule.to_dict() for rule in cls.RULES)]
        return schema


def _drop_unset(model: BaseModel, dumped: dict[str, Any]) -> None:
    """Remove from `dumped`, the dump of `model`, what is empty and a mere default."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        key = field.alias or name
        if isinstance(value, Model):
            _drop_unset(value, dumped[key])
        elif isinstance(value, list):
            for item, item_dumped in zip(value, dumped[key], strict=True):
                if isinstance(item, Model):
                    _drop_unset(item, item_dumped)
        if name not in model.model_fields_set and dumped.get(key) in ([], {}, ""):
            del dumped[key]
