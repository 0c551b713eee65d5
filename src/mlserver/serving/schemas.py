"""The JSON schemas of what a model can be sent, and examples of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlserver.serving.codec.decode import InputSchema

Json = dict[str, Any]

STRING: Json = {"type": "string"}


def _cells(schema: InputSchema) -> Json:
    """Schemas of a single value."""
    number = {"description": "null is a missing value", "type": ["number", "boolean", "null"]}
    value = {"description": "null is a missing value", "type": ["number", "string", "boolean", "null"]}
    return {"number": number, "value": value} if schema.dataframe else {"number": number}


def _cell(schema: InputSchema, name: str | None = None) -> Json:
    text = schema.dataframe and (not schema.categorical or name is None or name in schema.categorical)
    return ref("value" if text else "number")


def input_schemas(schema: InputSchema) -> Json:
    """Schemas of the input forms that the model can be sent, and of the rows and values in them."""
    forms = _cells(schema)
    shapes = []
    if _takes_unnamed(schema):
        forms["row"] = _row(schema)
        forms["ndarray"] = _body("ndarray", _rows("row"))
        shapes.append(_rows("row"))
    if _takes_named(schema):
        forms["record"] = _record(schema)
        forms["records"] = _body("records", _rows("record"))
        forms["dataframe_split"] = _body("dataframe_split", _split(schema))
        shapes.append(_rows("record"))
    forms["instances"] = _body("instances", {"anyOf": shapes} if len(shapes) > 1 else shapes[0])
    return forms


def _takes_unnamed(schema: InputSchema) -> bool:
    if schema.adapter == "auto":
        return schema.feature_names is not None or not schema.dataframe
    return schema.adapter == "ndarray"


def _takes_named(schema: InputSchema) -> bool:
    return schema.adapter != "ndarray"


def _row(schema: InputSchema) -> Json:
    if schema.width is None:
        return {
            "description": "Values, or nested lists of them; every row alike",
            "type": "array",
            "minItems": 1,
        }
    row = {"type": "array", "minItems": schema.width, "maxItems": schema.width, "items": _cell(schema)}
    if schema.categorical and schema.feature_names is not None:
        row["prefixItems"] = [_cell(schema, name) for name in schema.feature_names]
    return row


def _record(schema: InputSchema) -> Json:
    names = schema.feature_names
    if names is None:
        width = {} if schema.width is None else {"maxProperties": schema.width}
        return {
            "description": "Every record has the same names",
            "type": "object",
            "additionalProperties": _cell(schema),
            "minProperties": schema.width or 1,
            **width,
        }
    return {
        "type": "object",
        "properties": {name: _cell(schema, name) for name in names},
        "required": list(names),
        "additionalProperties": False,
    }


def _split(schema: InputSchema) -> Json:
    """Columns may come in any order, so nothing is said of a single column's values."""
    length = {"minItems": 1} if schema.width is None else {"minItems": schema.width, "maxItems": schema.width}
    name = STRING if schema.feature_names is None else {"enum": list(schema.feature_names)}
    row = {"type": "array", "items": _cell(schema), **length}
    return fixed_object(
        {
            "columns": {"type": "array", "items": name, "uniqueItems": True, **length},
            "data": {"type": "array", "minItems": 1, "items": row},
            "index": {"description": "Ignored"},
        },
        required=["columns", "data"],
    )


def input_examples(schema: InputSchema) -> Json:
    """One body for each form that the model can be sent, the most telling first."""
    names = schema.feature_names or tuple(f"feature_{index}" for index in range(schema.width or 2))
    row = ["a" if schema.dataframe and name in schema.categorical else 1.5 for name in names]
    record = dict(zip(names, row, strict=True))
    named = {
        "records": {"records": [record]},
        "dataframe_split": {"dataframe_split": {"columns": list(names), "data": [row]}},
    }
    unnamed = {"ndarray": {"ndarray": [row]}}
    forms = {
        **(named if _takes_named(schema) and schema.feature_names else {}),
        **(unnamed if _takes_unnamed(schema) else {}),
        **(named if _takes_named(schema) else {}),
    }
    return {**forms, "instances": {"instances": [record if "records" in forms else row]}}


def _body(form: str, schema: Json) -> Json:
    return fixed_object({form: schema})


def _rows(item: str) -> Json:
    return {"type": "array", "minItems": 1, "items": ref(item)}


def fixed_object(properties: Json, *, required: list[str] | None = None) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": required or list(properties),
        "additionalProperties": False,
    }


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
