"""What must not be shown is in no text, in whatever form, and everything else stays."""

from __future__ import annotations

import io
import json
import re
import reprlib
import traceback
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mlserver.redaction import MAX_TOKENS, WINDOW, Redaction, body, values

MARK = "[REDACTED]"
OURS = "<>=~|#"
"""Characters of which what is not secret is made in these tests, so that no secret is in it by chance."""


def a_redaction(*names, patterns=(), features=("age", "ssn", "city")):
    redaction = Redaction(names or ("ssn",), patterns)
    redaction.features = features
    return redaction


def shown(data, redaction=None, **options):
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return (redaction or a_redaction()).body(data, **options)


def digits_of(number):
    return re.sub(r"\D", "", repr(number).split("e")[0]).strip("0")


# Strings whose parts of eight characters are in nothing else, and numbers of no fewer than four digits.
letters = st.characters(codec="utf-8", exclude_characters=OURS, exclude_categories=("Zs", "Zl", "Zp"))
secret_texts = st.text(letters, min_size=8, max_size=60).filter(
    lambda text: text == text.strip() and len(set(text)) > 4 and "redacted" not in text.lower()
)
secret_numbers = (st.integers(-(2**63), 2**63) | st.floats(1e-5, 1e15)).filter(
    lambda number: len(digits_of(number)) >= 5 and abs(number) > 1e-5
)
secrets = secret_texts | secret_numbers
plain_leaves = st.none() | st.text(st.sampled_from(OURS), max_size=20)


def ways_to_write(value):
    """A value as code would put it into a message."""
    if isinstance(value, str):
        asked = [value, repr(value), ascii(value), json.dumps(value), json.dumps(value, ensure_ascii=False)]
        asked += [
            repr(value.encode()),
            str([value]),
            repr(repr(value)),
            json.dumps(json.dumps(value)),
            quote(value),
        ]
        return [*asked, value[:39] + "…", str(np.array([value])), reprlib.repr(value), f"KeyError({value!r})"]
    number = float(value)
    asked = [str(value), repr(value), str(number), repr(np.float64(number)), f"{number:.6e}", f"{number:g}"]
    asked += [
        str(np.array([number])),
        repr(np.array([[number, 0.5]])),
        f"{value:,}",
        f"{value:_}",
        f"-{abs(value)}",
    ]
    return [*asked, str(np.float32(number)), str(float(np.float32(number))), json.dumps([value])]


def ways_to_write_inside(part):
    inside = [repr(part), ascii(part), json.dumps(part), json.dumps(part, ensure_ascii=False)]
    return {part, part.upper(), quote(part), repr(part.encode())[2:-1], *(way[1:-1] for way in inside)}


def told_by(text, value):
    """Whether a text tells the value to somebody who looks for it: more than six characters or digits of it."""
    if isinstance(value, str):
        parts = [value[at : at + 8] for at in range(len(value) - 7)]
        return any(form in text for part in parts for form in ways_to_write_inside(part))
    return digits_of(value)[:6] in re.sub(r"[,_.]", "", text)


class TestBodies:
    def test_hidden_fields_are_replaced_at_any_depth_with_all_that_is_in_them(self):
        given = {"records": [{"SSN": "x", "age": 4, "more": {"a": [{"ssn": {"b": [1, "y"]}}]}}], "ssn": None}
        assert json.loads(shown(given)) == {
            "records": [{"SSN": MARK, "age": 4, "more": {"a": [{"ssn": MARK}]}}],
            "ssn": MARK,
        }

    def test_the_rest_stays_as_it_was_written(self):
        assert shown(b'{ "ssn" :  1,\n "x": {"y": [1.50, 1e3, 12345678901234567890123]} }') == (
            '{ "ssn" :  "[REDACTED]",\n "x": {"y": [1.50, 1e3, 12345678901234567890123]} }'
        )

    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("ssn", r"\u0073sn"), ("ssn", "SsN"), ("Straße", "STRASSE"), ("straße", r"stra\u00dfe"), ("ÉTÉ", "été"),
            ("été", "e\u0301te\u0301"), ('a"b', r"a\"b"), ("", ""), ("a b", "A B"), ("\uff53sn", "ssn"),
        ],
    )  # fmt: skip
    def test_names_are_the_same_in_any_case_and_escape(self, name, key):
        assert shown(f'{{"{key}": 12345}}'.encode(), a_redaction(name)) == f'{{"{key}": "[REDACTED]"}}'

    def test_a_key_that_is_far_too_long_is_not_normalized(self, monkeypatch):
        names = body.Names(["été", "\ufdfa"])
        monkeypatch.setattr(body, "unicodedata", None)
        assert "e" + "\u0301\u0327" * 10_000 not in names

    def test_a_key_that_stands_twice_is_hidden_twice(self):
        assert (
            shown(b'{"ssn": 1, "ssn": 2, "age": 3}') == '{"ssn": "[REDACTED]", "ssn": "[REDACTED]", "age": 3}'
        )

    @pytest.mark.parametrize("form", ["ndarray", "instances", "records", "misspelt"])
    def test_columns_of_bare_arrays_are_known_by_their_place(self, form):
        assert json.loads(shown({form: [[1, 2, 3], [4, [5], 6]]})) == {form: [[1, MARK, 3], [4, MARK, 6]]}

    @pytest.mark.parametrize("rows", [[[1, 2]], [[1, 2, 3, 4]], [[[1, 2, 3]]], [7], 7, "x", [[1, 2, 3], "x"]])
    def test_where_a_row_is_not_as_it_should_be_all_of_it_is_hidden(self, rows):
        left = re.sub(r'"(ndarray|\[REDACTED\])"', "", shown({"ndarray": rows}))
        assert re.sub(r"\b[13]\b", "", left) == re.sub(r"[\w\"]", "", left)
        assert left.count("2") == 0

    def test_a_list_without_a_form_may_be_rows_too(self):
        assert json.loads(shown([[1, 2, 3]])) == [[1, MARK, 3]]

    def test_rows_with_names_go_by_their_names(self):
        given = {"instances": [{"city": "x", "ssn": "y"}]}
        assert json.loads(shown(given)) == {"instances": [{"city": "x", "ssn": MARK}]}

    def test_columns_of_a_split_frame_go_by_its_own_names(self):
        given = {"dataframe_split": {"data": [[1, 2], [3]], "index": ["i"], "columns": ["Ssn", "age"]}}
        assert json.loads(shown(given)) == {
            "dataframe_split": {"data": [[MARK, 2], [MARK]], "index": ["i"], "columns": ["Ssn", "age"]}
        }

    @pytest.mark.parametrize(
        "split",
        [
            b'{"columns": ["age", 7], "data": [[12345, 2]]}',
            b'{"data": [[12345, 2]]}',
            b'{"columns": ["a", "b"], "columns": ["ssn", "b"], "data": [[12345, 2]]}',
            b'{"columns": ["ssn", "b"], "data": [[12345, 2]], "columns": ["a", "b"]}',
            b'{"columns": ["ssn", "b"], "data": 12345}',
            b'{"columns": ["a", "b"], "data": [[1, 2, 12345]]}',
        ],
    )
    def test_a_split_frame_whose_columns_are_unclear_is_hidden(self, split):
        assert "12345" not in shown(b'{"dataframe_split": ' + split + b"}")

    def test_nothing_is_hidden_of_columns_that_are_not_named(self):
        rows = {"ndarray": [[1, 2, 3], [4, 5, 6]]}
        assert json.loads(shown(rows, a_redaction("other"))) == rows
        assert json.loads(shown(rows, a_redaction(features=()))) == rows
        assert json.loads(shown({"ndarray": [[1, 2, 3], [4]]}, a_redaction(features=()))) == {
            "ndarray": [[1, 2, 3], [4]]
        }

    def test_as_long_as_nobody_knows_the_columns_all_rows_are_hidden(self):
        redaction = Redaction(["ssn"])
        assert json.loads(shown({"ndarray": [[1, 2]]}, redaction)) == {"ndarray": [[MARK, MARK]]}
        assert json.loads(shown({"records": [{"ssn": 1, "age": 2}]}, redaction)) == {
            "records": [{"ssn": MARK, "age": 2}]
        }

    def test_an_answer_is_no_rows(self):
        answer = {"predictions": [[1, 2, 3], [4, 5, 6]], "model": "m"}
        assert json.loads(shown(answer)) == answer

    @pytest.mark.parametrize(
        "data",
        [
            b'{"ssn": "123-45',
            b"ssn=123-45",
            b"\xff\x00",
            b'{"ssn": NaN}',
            b"[" * 5000,
            b'\xef\xbb\xbf{"ssn": 1}',
        ],
    )
    def test_what_is_no_json_is_not_shown_where_names_are_to_be_hidden(self, data):
        assert shown(data) == f"[REDACTED: {len(data)} bytes that are no JSON]"

    def test_an_empty_body_is_empty(self):
        assert shown(b"") == ""

    def test_deep_nesting_is_no_trouble(self):
        deep = b'{"x":' * 500 + b'{"ssn": 12345}' + b"}" * 500
        assert "12345" not in shown(deep)
        assert shown(deep).endswith('{"ssn": "[REDACTED]"}' + "}" * 500)

    def test_without_names_and_patterns_a_body_stays(self):
        assert Redaction().body(b'{"ssn": 1} \xff') == '{"ssn": 1} \ufffd'
        assert not Redaction()

    @given(
        st.recursive(
            plain_leaves,
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.text(st.sampled_from(OURS), max_size=5), inner, max_size=4)
                | st.dictionaries(st.sampled_from(["ssn", "SSN"]), st.lists(secrets, max_size=3), max_size=1)
            ),
            max_leaves=20,
        ),
        st.booleans(),
        st.none() | st.integers(1, 400),
    )
    def test_no_body_shows_a_hidden_value_wherever_it_is_cut(self, document, as_ascii, limit):
        def collect(value, within=False):
            if isinstance(value, dict):
                return [
                    x for key, item in value.items() for x in collect(item, within or key.lower() == "ssn")
                ]
            if isinstance(value, list):
                return [x for item in value for x in collect(item, within)]
            return [value] if within else []

        data = json.dumps({"x": document}, ensure_ascii=as_ascii).encode()
        text = shown(data, limit=limit)
        for secret in collect(document):
            assert not told_by(text, secret)
        if limit is None:
            assert json.loads(text)
        else:
            assert len(text.partition("…(")[0].encode()) <= limit

    @given(st.text(), st.integers(1, 100))
    def test_a_body_is_cut_with_a_mark_that_says_how_much_is_missing(self, text, limit):
        data = text.encode()
        cut = Redaction().body(data, limit=limit)
        begin, mark, more = cut.rpartition("…(")
        if len(data) <= limit:
            assert cut == text
        else:
            assert mark
            assert text.startswith(begin)
            assert len(begin.encode()) + int(more.split()[0]) == len(data)

    def test_only_as_much_is_looked_at_as_is_shown(self, monkeypatch):
        monkeypatch.setattr(body, "MAX_TOKENS", 50)
        data = json.dumps({"records": [{"ssn": 98765 + n, "n": n} for n in range(1000)]}).encode()
        text = shown(data)
        assert "9876" not in text
        assert text.startswith('{"records": [{"ssn": "[REDACTED]", "n": 0}')
        assert re.search(r"…\(\d+ bytes more\)$", text)

    def test_a_long_hidden_value_takes_no_room(self):
        text = shown({"ssn": "x" * 10_000, "age": 4}, limit=50)
        assert text == '{"ssn": "[REDACTED]", "age": 4}'


class TestPatterns:
    def test_matches_are_replaced_in_texts_keys_values_and_numbers(self):
        redaction = Redaction((), [r"\d{3}-\d\d-\d{4}", r"4\d{15}"])
        given = {"k 123-45-6789": ["a 123-45-6789 b", 4111111111111111, "4111111111111111"]}
        assert shown(given, redaction) == f'{{"k {MARK}": ["a {MARK} b", {MARK}, "{MARK}"]}}'
        assert redaction.text("card 4111111111111111.") == f"card {MARK}."
        assert shown(b"ssn=123-45-6789&x=\xff", redaction) == f"ssn={MARK}&x=\ufffd"

    @pytest.mark.parametrize(
        "text",
        [r'{"a": "\u0073ecret"}', r'{"a": "s\u0065\u0063ret"}', r"'\x73ecret'", "%73ecret", "&#115;ecret"],
    )
    def test_they_match_what_is_meant(self, text):
        assert "ecret" not in Redaction((), ["secret"]).text(text)
        assert "ecret" not in Redaction((), ["secret"]).body(text.encode())

    @pytest.mark.parametrize(
        "text", ["?name=Ada+O%27Hara&b=1", "?name=Ada%20O%27Hara", "Ada O&#39;Hara", "Ada+O'Hara"]
    )
    def test_they_match_in_submitted_forms(self, text):
        assert "Ada" not in Redaction((), ["Ada O'Hara"]).text(text)

    def test_a_plus_sign_is_one_too(self):
        assert Redaction((), [r"\+41 79"]).text("call +41 79 or %2B41+79") == f"call {MARK} or {MARK}"

    def test_they_see_numbers_as_they_are_written(self):
        assert shown(b'{"n": 41111111111111110000000}', Redaction((), [r"\d{23}"])) == '{"n": [REDACTED]}'

    def test_a_match_that_is_cut_is_not_shown_in_part(self):
        redaction = Redaction((), ["s3cret-[0-9]+"])
        for limit in range(1, 40):
            assert (
                "s3cr" not in shown(b'{"a": "xx s3cret-123456789 yy"}', redaction, limit=limit)[limit - 8 :]
                or limit < 8
            )
            assert "s3cret-1" not in shown(b'{"a": "xx s3cret-123456789 yy"}', redaction, limit=limit)

    def test_names_and_patterns_work_together(self):
        redaction = a_redaction(patterns=["ssn|x+"])
        assert shown(b'{"ssn": "axxb", "b": "xx"}', redaction) == f'{{"{MARK}": "{MARK}", "b": "{MARK}"}}'

    def test_overlapping_matches_are_one(self):
        assert Redaction((), ["abc", "bcd"]).text("-abcd-") == f"-{MARK}-"

    @given(st.text(st.sampled_from('ab\\u0061%"'), max_size=40))
    def test_what_is_left_has_no_match(self, text):
        assert "aa" not in Redaction((), ["a+", "b"]).text(text)


class TestHiding:
    @given(secret=secrets, way=st.integers(0, 13), around=st.tuples(*[st.text(st.sampled_from(OURS))] * 2))
    @example(secret='it\'s "so"\nand\\so', way=1, around=("", ""))
    @example(secret=-1234567, way=10, around=("", ""))
    def test_a_value_is_found_however_it_is_written(self, secret, way, around):
        hide = a_redaction().hide([json.dumps({"records": [{"ssn": secret}]}).encode()])
        written = ways_to_write(secret)
        text = written[way % len(written)].join(around)
        assert not told_by(hide(text), secret)

    @given(st.lists(secret_texts, min_size=1, max_size=4), st.integers(0, 3))
    def test_a_value_is_found_in_a_traceback_with_causes_notes_and_groups(self, texts, kind):
        def fail(texts):
            try:
                int(texts[0])
            except ValueError as error:
                error.add_note(f"note {texts[-1]}")
                if kind == 0:
                    raise KeyError(texts[-1]) from error
                if kind == 1:
                    raise ExceptionGroup(texts[-1], [error, RuntimeError(texts)]) from error
                if kind == 2:
                    raise
                raise ValueError from KeyError(*texts)

        def shown_for(texts):
            with pytest.raises(Exception) as raised:
                fail(texts)
            return "".join(traceback.format_exception(raised.value))

        assume(not any(told_by(shown_for(["#"]), secret) for secret in texts))
        hide = a_redaction().hide([json.dumps({"records": [{"ssn": text}]}).encode() for text in texts])
        assert not any(told_by(hide(shown_for(texts)), secret) for secret in texts)

    @given(st.text(st.sampled_from(OURS + "\n")), st.lists(secrets, max_size=5))
    def test_all_else_stays(self, text, hidden):
        hide = a_redaction().hide([json.dumps({"records": [{"ssn": hidden}]}).encode()])
        assert hide(text) == text

    def test_short_values_are_hidden_where_they_stand_alone(self):
        hide = a_redaction().hide([b'{"ssn": ["M", 7, "ab", 42]}'])
        assert hide("M is 7 of ab (42), 7.0 or 'M'; but Mo, x7, 77, abc, 4.2 and Max are not") == (
            f"{MARK} is {MARK} of {MARK} ({MARK}), {MARK} or '{MARK}'; but Mo, x7, 77, abc, 4.2 and Max are not"
        )

    def test_truth_is_hidden_in_all_its_forms(self):
        hide = a_redaction().hide([b'{"ssn": true}'])
        assert hide("True, true, 1, 1.0, np.True_, construed") == (
            f"{MARK}, {MARK}, {MARK}, {MARK}, np.True_, construed"
        )

    def test_null_says_nothing(self):
        assert a_redaction().hide([b'{"ssn": null}'])("null None nan") == "null None nan"

    def test_keys_within_a_hidden_value_are_hidden_too(self):
        assert a_redaction().hide([b'{"ssn": {"Bern-Bumpliz": 1}}'])("at Bern-Bumpliz") == f"at {MARK}"

    def test_hidden_columns_give_their_values(self):
        data = [
            b'{"ndarray": [[1, 98765, 3]]}',
            b'{"dataframe_split": {"columns": ["ssn"], "data": [["a-b-c"]]}}',
        ]
        assert a_redaction().hide(data)("1 98765.0 3 a-b-c") == f"1 {MARK} 3 {MARK}"

    def test_numbers_count_by_their_value_and_not_by_their_digits(self):
        hide = a_redaction().hide([b'{"ssn": 1234567}'])
        assert hide("1234567.0 1.234567e+06 1,234,567 01234567 1.235e6") == " ".join([MARK] * 5)
        assert (
            hide("1234566 2234567 12345.67 123456.7 0.123456") == "1234566 2234567 12345.67 123456.7 0.123456"
        )

    def test_a_number_in_a_string_is_found_as_a_number(self):
        assert a_redaction().hide([b'{"ssn": "1234567"}'])("1.234567e6") == MARK

    def test_a_string_of_several_lines_is_found_line_by_line(self):
        hide = a_redaction().hide([json.dumps({"ssn": "first line\nline no. 2\nthird line\n"}).encode()])
        assert re.sub(r"[|\s]", "", hide("| first line\n| line no. 2\n| third line")) == MARK * 3

    def test_the_end_of_a_string_is_enough(self):
        hide = a_redaction().hide([b'{"ssn": "somebody of somewhere"}'])
        assert hide("'... of somewhere'") == f"'...{MARK}'"
        assert hide("omewhere ewhere") == f"{MARK} ewhere"

    def test_a_value_that_is_nearly_a_number_takes_no_time(self):
        # It took minutes where the expression tried every way to share out the digits.
        value = "1" * 100_000 + "x"
        hide = Redaction(["name"], ()).hide([json.dumps({"records": [{"name": value}]}).encode()])
        assert hide(f"no float: {value}") == f"[REDACTED: {len(value) + 10} characters]"
        assert hide(f"no float: {value[:3000]}") == f"no float: {MARK}"

    def test_values_that_begin_alike_are_hidden_to_their_ends(self):
        hide = a_redaction().hide([b'{"ssn": ["12 345 678 A", "12 345 678 BCDE", "12 345 678"]}'])
        assert hide("12 345 678 A, 12 345 678 BCDE; 12 345 678 BCX") == f"{MARK}, {MARK}; {MARK}X"

    @pytest.mark.parametrize("data", [b"", b"no json", b'{"age": 12345}', b"[]"])
    def test_requests_without_hidden_values_hide_nothing(self, data):
        assert a_redaction().hide([data])("12345 no json") == "12345 no json"

    def test_too_many_values_hide_everything(self, monkeypatch):
        data = json.dumps({"ndarray": [[1, n, 3] for n in range(20)]}).encode()
        for module, name, most in [
            (values, "MAX_VALUES", 10),
            (values, "MAX_CHARACTERS", 10),
            (body, "MAX_TOKENS", 30),
            (body, "MAX_BYTES", 100),
        ]:
            with monkeypatch.context() as patch:
                patch.setattr(module, name, most)
                hide = a_redaction().hide([data])
                assert hide("some text") == "[REDACTED: 9 characters]"
                assert a_redaction().body(b"{}", hidden=hide) == "[REDACTED: 2 bytes]"

    @pytest.mark.parametrize("hidden", [["".join(f"line {n}\n" for n in range(9))], ["é" * 20] * 9, [9]])
    def test_lines_and_what_is_not_ascii_count_for_what_they_cost(self, monkeypatch, hidden):
        monkeypatch.setattr(values, "MAX_VALUES", 8)
        monkeypatch.setattr(values, "MAX_CHARACTERS", 159)
        hide = a_redaction().hide([json.dumps({"ssn": hidden}).encode()])
        assert hide("some text") == ("some text" if hidden == [9] else "[REDACTED: 9 characters]")

    def test_of_a_body_that_is_too_long_nothing_is_shown(self, monkeypatch):
        monkeypatch.setattr(body, "MAX_BYTES", 20)
        assert shown(b'{"ssn": "abcdefghijk"}') == "…(22 bytes more)"
        assert shown(b'{"ssn": "abcdefghi"}') == f'{{"ssn": "{MARK}"}}'

    def test_every_body_is_searched_once_whatever_is_asked_for(self, monkeypatch):
        searched = []
        monkeypatch.setattr("mlserver.redaction.scan", lambda data, *rest, **more: (
            searched.append(data), body.scan(data, *rest, **more)
        )[1])  # fmt: skip
        asked = json.dumps({"records": [{"ssn": f"s3cret-{n}", "n": n} for n in range(300)]}).encode()
        answer = b'{"predictions": ["s3cret-7"]}'
        redaction = a_redaction()
        hide = redaction.hide([asked])
        for limit in (400, 200, 300):
            assert "s3cret" not in hide(asked.decode())
            assert redaction.body(asked, limit=limit, hidden=hide).startswith(
                f'{{"records": [{{"ssn": "{MARK}"'
            )
            assert redaction.body(answer, limit=limit, hidden=hide) == f'{{"predictions": ["{MARK}"]}}'
        assert searched == [asked, answer]

    @given(st.integers(1, 400), st.sampled_from(["abcdefghi", "x" * 700, 1.5]))
    def test_of_a_body_that_was_searched_as_much_is_shown_as_of_any(self, limit, secret):
        data = json.dumps({"records": [{"ssn": secret, "n": n} for n in range(40)]}).encode()
        redaction = a_redaction()
        hide = redaction.hide([data])
        for some in (limit // 2 + 1, limit):
            assert redaction.body(data, limit=some, hidden=hide) == redaction.body(data, limit=some)

    def test_of_what_was_found_only_as_much_is_looked_at_as_is_shown(self):
        found = body.Scan([(0, 10), (20, 30), (500, 510)], 1000)
        assert found.within(50) == body.Scan([(0, 10), (20, 30)], 70)
        assert found.within(5000) == found

    def test_of_a_very_long_text_beginning_and_end_are_left(self):
        hide = a_redaction(patterns=["pat+ern"]).hide([b'{"ssn": "s3cret-value"}'])
        filling = "~" * WINDOW
        text = hide(f"begin s3cret-value{filling}s3cret-value pattern{filling}s3cret-value end")
        assert text.startswith(f"begin {MARK}~")
        assert text.endswith(f"~{MARK} end")
        assert len(text) < WINDOW + 200
        assert "s3cret" not in text

    @given(st.integers(0, 40), st.integers(0, 40))
    def test_at_the_border_of_a_window_nothing_is_shown_in_part(self, before, after):
        half, secret = WINDOW // 2, "s3cret-value-of-somebody"
        hide = a_redaction().hide([json.dumps({"ssn": secret}).encode()])
        text = "~" * (half - before) + secret + "~" * WINDOW + secret + "~" * (half - after)
        assert not told_by(hide(text), secret)

    def test_texts_and_values_that_are_all_alike_take_no_longer(self):
        alike = "a" * 60_000
        hide = a_redaction().hide(
            [json.dumps({"ssn": [alike + "b", *(alike[:n] + "c" for n in range(9, 200))]}).encode()]
        )
        assert hide(alike) == "[REDACTED: 60000 characters]"
        assert hide(alike[:WINDOW]) == MARK
        for other in ("\\", "1"):
            assert hide(other * WINDOW) == other * WINDOW

    @pytest.mark.parametrize("write", [str, quote, quote_plus], ids=lambda write: write.__name__)
    @pytest.mark.parametrize("letters", ["lorem0ipsum1dolor2", "宇宙の果てのレストラン", "ab c"])
    def test_of_a_long_value_that_was_cut_off_nothing_is_shown_in_a_long_text(self, letters, write):
        value = "".join(f"{letters}{number}" for number in range(700))
        hide = a_redaction().hide([json.dumps({"ssn": value}).encode()])
        for part in (value[:4200], value[-4200:]):
            text = f"bad: {write(part)}..."
            shown = hide(text)
            assert shown == f"[REDACTED: {len(text)} characters]" if len(text) > WINDOW else MARK in shown

    def test_bodies_of_a_run_are_searched_up_to_a_number_of_values_all_together(self):
        body = json.dumps({"age": [1] * 9_000, "ssn": "s3cret-value"}).encode()
        assert a_redaction().hide([body] * 4)("a s3cret-value") == f"a {MARK}"
        assert a_redaction().hide([body] * 5)("a s3cret-value") == "[REDACTED: 14 characters]"

    def test_a_body_with_too_many_commas_is_not_searched_wherever_they_stand(self):
        body = json.dumps({"text": "," * (MAX_TOKENS + 1), "ssn": "s3cret-value"}).encode()
        assert a_redaction().hide([body])("a s3cret-value") == "[REDACTED: 14 characters]"

    @pytest.mark.parametrize(
        ("secret", "text"),
        [
            (918273.645, "...918274"), (918273.645, "1..918274"), (918273.645, "s.9.182736e+05"),
            (1234567.0, "...1234567"), (1234567.0, "a.1234567"), (1234567.0, ".1234567"),
            ("123-45-6789", "123456789"), ("+41 79 123 45 67", "+41791234567"), ("+41791234567", "+41 79 123 45 67"),
            ("DE89 3704 0044 0532 0130 00", "DE89370400440532013000"), ("DE89370400440532013000", "DE89 3704 0044 0532 0130 00"),
            ("Ada O'Hara", "Ada O''Hara"), ('Ada "K" Love', 'Ada ""K"" Love'),
        ],
    )  # fmt: skip
    def test_a_value_is_found_with_other_gaps_behind_dots_and_with_doubled_quotes(self, secret, text):
        shown = a_redaction().hide([json.dumps({"ssn": secret}).encode()])(f"<{text}>")
        assert MARK in shown
        assert not re.search(r"\d\d|[Aa]da|Hara|Love|DE", shown)

    def test_of_a_request_with_a_binary_body_no_text_is_shown(self):
        body = io.BytesIO()
        np.save(body, np.array([[1234567.0]]))
        for data in (body.getvalue(), b"\x93NUMPY", b"ARROW\0"):
            hidden = a_redaction().hide([data])
            assert hidden("no 1234567.0") == "[REDACTED: 12 characters]"
            assert hidden.body(data) == f"[REDACTED: {len(data)} bytes]"

    def test_a_number_of_its_own_is_left(self):
        hide = a_redaction().hide([b'{"ssn": 918273.645}'])
        assert hide("1.918274 and 0.918274") == "1.918274 and 0.918274"


@given(st.binary(max_size=200), st.lists(st.text(max_size=5), max_size=3), st.integers(1, 300))
def test_any_body_and_any_names_give_a_text(data, names, limit):
    assume(names)
    redaction = Redaction(names)
    assert isinstance(redaction.body(data, limit=limit), str)
    assert isinstance(redaction.hide([data])(data.decode("latin-1")), str)
