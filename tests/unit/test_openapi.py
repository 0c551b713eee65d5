"""The OpenAPI document and the page made of it, and the reference of errors."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from mlserver import errors
from mlserver.errors import RequestError
from mlserver.serving.codec import Decoder, Encoder, InputSchema, normalise, problem
from mlserver.serving.openapi import CONTENT_SECURITY_POLICY, docs_page, document, sent_errors

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
SCHEMAS = [
    InputSchema(names, width, dataframe=dataframe, categorical=frozenset(categorical), adapter=adapter)
    for names, width, categorical in [
        (None, None, ()),
        (None, 2, ()),
        (("a", "b"), 2, ()),
        (("a", "b"), 2, ("b",)),
    ]
    for dataframe in ((True,) if categorical else (False, True))
    for adapter in ("auto", "records", "ndarray")
    if not (dataframe and names is None and adapter == "ndarray")  # takes nothing at all
]
NAMED = InputSchema(("a", "b"), 2, dataframe=False, categorical=frozenset())


def describe(schema, *, model="iris", operations=("predict", "predict_proba"), metrics_endpoint="/metrics"):
    made = document(
        schema, model=model, version="1", operations=frozenset(operations), metrics_endpoint=metrics_endpoint
    )
    return json.loads(orjson.dumps(made))


def validator(api, schema):
    """References in a schema start at the root, so the components go there."""
    return Draft202012Validator({**schema, "components": api["components"]})


def request(api):
    return api["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_the_document_is_valid_openapi(schema):
    validate(describe(schema))


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_every_example_is_valid_and_is_decoded(schema):
    api = describe(schema)
    examples = request(api)["examples"]
    assert [option["$ref"].rpartition("/")[2] for option in request(api)["schema"]["oneOf"]] == list(examples)
    for form, sample in examples.items():
        assert list(sample["value"]) == [form]
        validator(api, request(api)["schema"]).validate(sample["value"])
        assert len(Decoder(schema)(orjson.dumps(sample["value"]), None)) == 1


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_the_media_types_are_those_that_the_model_can_be_sent(schema):
    """A body that is empty is refused for what it is, and not for its kind, exactly where its kind is taken."""
    content = describe(schema)["paths"]["/predict"]["post"]["requestBody"]["content"]
    for media_type in ("application/json", "application/x-npy", "application/vnd.apache.arrow.stream"):
        with pytest.raises(RequestError) as caught:
            Decoder(schema)(b"", media_type.encode())
        assert (media_type in content) == (not isinstance(caught.value, errors.InvalidInput))


CELLS = st.sampled_from([1, 2.5, None, True, "x", [], {}])
ROWS = st.lists(st.lists(CELLS, max_size=3) | CELLS, max_size=2)
RECORDS = st.lists(st.dictionaries(st.sampled_from("abc"), CELLS, max_size=3) | CELLS, max_size=2)
SPLITS = st.fixed_dictionaries(
    {"columns": st.lists(st.sampled_from("abc"), max_size=3), "data": ROWS},
    optional={"index": CELLS, "other": CELLS},
)
BODIES = st.one_of(
    st.fixed_dictionaries({form: rows}, optional={"other": CELLS})
    for form, rows in [
        ("ndarray", ROWS),
        ("records", RECORDS),
        ("instances", ROWS | RECORDS),
        ("dataframe_split", SPLITS),
    ]
)


@cache
def request_validator(schema):
    api = describe(schema)
    return validator(api, request(api)["schema"])


@settings(max_examples=2000)
@given(st.sampled_from(SCHEMAS), BODIES)
@example(NAMED, {"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}})
def test_the_documents_schema_takes_what_the_server_takes(schema, body):
    valid = request_validator(schema).is_valid(body)
    try:
        Decoder(schema)(orjson.dumps(body), None)
    except RequestError:
        # Equal names and lengths cannot be said in a schema, nor which of several columns a value is in.
        exact = schema.feature_names is not None and not schema.categorical
        assert not (valid and exact)
    else:
        assert valid


@pytest.mark.parametrize(
    ("operation", "key"), [("predict", "predictions"), ("predict_proba", "probabilities")]
)
def test_answers_and_problems_match_their_schemas(operation, key):
    api = describe(NAMED)
    responses = api["paths"][f"/{operation}"]["post"]["responses"]
    answer = Encoder("iris", "1")(operation, normalise([1.5], 1), None, 0.5)
    assert key in json.loads(answer)
    validator(api, responses["200"]["content"]["application/json"]["schema"]).validate(json.loads(answer))
    for error in sent_errors():
        detail = {"allow": "GET"} if error is errors.MethodNotAllowed else {}
        response = api["components"]["responses"][str(error.status)]
        schema = validator(api, response["content"]["application/problem+json"]["schema"])
        schema.validate(json.loads(problem(error("Something.", **detail), "id")))


def test_every_error_but_the_one_that_is_never_sent_is_there():
    api = describe(NAMED)
    sent = {error.code for error in RequestError.__subclasses__() if error.__module__ == errors.__name__}
    sent -= {"client_gone"}
    assert set(api["components"]["schemas"]["problem"]["properties"]["code"]["enum"]) == sent
    assert {error["code"] for error in api["x-errors"]} == sent
    assert {"400", "413", "415", "422", "429", "500", "503", "504"} <= set(
        api["paths"]["/predict"]["post"]["responses"]
    )


def test_records_have_the_models_features_in_order_and_no_others():
    record = describe(NAMED)["components"]["schemas"]["record"]
    assert list(record["properties"]) == record["required"] == ["a", "b"]
    assert record["additionalProperties"] is False
    row = describe(NAMED)["components"]["schemas"]["row"]
    assert (row["minItems"], row["maxItems"]) == (2, 2)


def test_only_what_the_server_has_is_documented():
    everything = describe(NAMED)["paths"]
    little = describe(NAMED, operations=("predict",), metrics_endpoint=None)["paths"]
    assert everything.keys() - little.keys() == {"/predict_proba", "/metrics"}
    assert {
        "/predict",
        "/healthz",
        "/readyz",
        "/startupz",
        "/info",
        "/docs",
        "/openapi.json",
    } == little.keys()


class Elements(HTMLParser):
    """The elements of a page with their attributes and text."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))

    def handle_data(self, data):
        if self.cdata_elem:
            self.found[-1][2].append(data)

    def of(self, tag):
        return [(attributes, "".join(text)) for name, attributes, text in self.found if name == tag]


HOSTILE = "</script><script>alert(1)</script><!--{{style}}"


def test_the_page_holds_the_document_whatever_its_names_are():
    schema = InputSchema((HOSTILE, "b"), 2, dataframe=False, categorical=frozenset())
    api = describe(schema, model=HOSTILE)
    scripts = Elements(docs_page(api)).of("script")
    assert [attributes.get("id") for attributes, _ in scripts] == ["document", None]
    assert json.loads(scripts[0][1]) == api


def test_the_pages_policy_allows_its_own_style_and_script_and_nothing_else():
    elements = Elements(docs_page(describe(NAMED)))
    (_, style), (_, script) = elements.of("style")[0], elements.of("script")[1]
    policy = dict(directive.split(" ", 1) for directive in CONTENT_SECURITY_POLICY.split("; "))
    for text, directive in ((style, "style-src"), (script, "script-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    attributes = {name for _, given, _ in elements.found for name in given}
    assert not {name for name in attributes if name.startswith("on") or name in ("style", "src")}


def test_the_page_is_small_and_names_no_other_host():
    api = describe(NAMED)
    page = docs_page(api)
    assert len(page) - len(orjson.dumps(api)) < 20_000
    assert b"http://" not in page
    assert b"https://" not in page


def sections(name):
    """Headings of a reference page, and the text below each."""
    parts = re.split(r"^## (.+)$", (REFERENCE / name).read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_reference_describes_every_error_with_its_status_and_title():
    described = sections("errors.md")
    described.pop("On the management listener")  # tests/docs/test_generated.py
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, RequestError) and error is not RequestError:
            text = described.pop(error.code)
            assert text.startswith(f"\n\n{error.status}, “{error.title}”."), error.code
    assert not described


def examples(name):
    """Pairs of a request's body and the detail of its refusal."""
    return re.findall(
        r"^\| `(.+?)` \| (\w.+?) \|$", (REFERENCE / name).read_text("utf-8"), flags=re.MULTILINE
    )


@pytest.mark.parametrize(("body", "detail"), examples("errors.md"))
def test_the_details_in_the_reference_are_the_servers_own(body, detail):
    names = ("sepal length", "sepal width", "petal length", "petal width")
    schema = InputSchema(names, 4, dataframe=False, categorical=frozenset())
    with pytest.raises(RequestError) as caught:
        Decoder(schema)(body.encode(), None)
    assert str(caught.value) == detail


def test_the_forms_in_the_reference_are_decoded_to_the_same_rows():
    blocks = re.findall(
        r"^```json\n(.+?)^```$", (REFERENCE / "http-api.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    bodies = [block for block in blocks if not {"predictions", "type"} & json.loads(block).keys()]
    forms = {option["$ref"].rpartition("/")[2] for option in request(describe(NAMED))["schema"]["oneOf"]}
    assert {form for body in bodies for form in json.loads(body)} == forms
    schema = InputSchema(("age", "income"), 2, dataframe=False, categorical=frozenset())
    for body in bodies:
        assert Decoder(schema)(body.encode(), None).values.tolist() == [[42, 1800.5], [31, 2400]]
