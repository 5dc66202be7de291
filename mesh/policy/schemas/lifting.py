"""A topic's schemas as one thing: what may be published, and what becomes of the data of older versions. Pure.

What a handler gets is always valid under the newest version that is known. Data that says an older version is lifted step by step: the
conversion of each later version (CEL over `data`), and then its defaults. Data that names no version, or one that is not there (it was
published before there was a schema, or by somebody who goes around us), is taken if the newest version allows it, else lifted from the
newest one that allows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import BadExpression
from mesh.policy.expressions import Program, Variables
from mesh.policy.schemas.document import Document, Schema, Unfit

CONVERSION = Variables(data=("data",))
"""What a conversion sees: the data of the version before."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version, compiled. `convert` and `defaults` lift the data of the version before."""

    number: int
    schema: Schema
    defaults: Mapping[str, Any] = field(default_factory=dict)
    convert: Program | None = None

    @classmethod
    def of(cls, number: int, document: Document, defaults: Mapping[str, Any], convert: str) -> "Version":
        """Raises BadExpression, and what `Schema` raises: the control plane took neither."""
        return cls(number, Schema(document), defaults, Program(convert, CONVERSION, "map") if convert else None)

    def lift(self, data: Any) -> Any:
        """Raises Unfit where the conversion fails."""
        if self.convert is not None:
            try:
                data = self.convert.run({"data": data})
            except BadExpression as problem:
                raise Unfit(f"the conversion to version {self.number} failed: {problem.message}") from None
        if self.defaults and isinstance(data, dict):
            data = {**self.defaults, **data}
        return data


class Topic:
    """All versions of one topic's schema. There is at least one."""

    def __init__(self, versions: Mapping[int, Version]) -> None:
        self._versions = dict(sorted(versions.items()))
        self.newest = self._versions[max(self._versions)]

    def check(self, data: Any) -> None:
        """Whether it may be published. Raises Unfit."""
        self.newest.schema.check(data)

    def lifted(self, data: Any, said: int | None) -> Any:
        """The data of an event that says this version, as the newest version allows it. Raises Unfit."""
        if said in self._versions:
            begin = said
        elif self.newest.schema.fits(data):
            return data
        else:
            fitting = (number for number in reversed(self._versions) if self._versions[number].schema.fits(data))
            begin = next(fitting, self.newest.number)
        for number, version in self._versions.items():
            if number > begin:
                data = version.lift(data)
        self.newest.schema.check(data)
        return data
