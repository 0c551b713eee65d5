"""A value is hidden however its text is written, and in a time that grows with the text only."""

from __future__ import annotations

import html
import json
import socket
import textwrap
import unicodedata
from urllib.parse import quote, quote_plus

import httpx
import orjson
import pytest
import requests
import urllib3
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mlserver.redaction import Redaction, spelling, words
from mlserver.redaction.spelling import Spelling, readings, small, without_case, without_gaps

MARK = "[REDACTED]"
NAMES = ["Ada O'Hara", 'Käthe "Kit" Ångström-Öst', "李小龍 (Bruce) & Söhne", "O_Neill + Co 50%"]


def hiding(*secrets):
    return Redaction(["ssn"]).hide([json.dumps({"records": [{"ssn": one} for one in secrets]}).encode()])


def whole(text):
    return Spelling(text, range(len(text) + 1))


def inside(form):
    return lambda text: form(text)[1:-1]


def wrapped(text):
    return "\n".join(textwrap.wrap(text, 10, break_long_words=False))


def normalized(form):
    return lambda text: unicodedata.normalize(form, text)


ESCAPES = [
    quote,
    lambda text: quote(text, safe=""),
    html.escape,
    inside(repr),
    inside(ascii),
    inside(json.dumps),
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: orjson.dumps(text).decode()[1:-1],
    lambda text: repr(text.encode())[2:-1],
]
CHANGES = [
    str.upper,
    str.lower,
    normalized("NFC"),
    normalized("NFD"),
    wrapped,
    lambda text: text.replace(" ", "\t"),
    lambda text: text.replace(" ", "_"),
    lambda text: text.replace(" ", "  \n"),
]
WAYS = [quote_plus, *ESCAPES, *CHANGES]

# Of C1 and Latin-1 signs ``ascii`` may make what is UTF-8 for something else.
characters = st.characters(
    categories=["L", "N", "P", "S", "Zs"], exclude_characters=[*map(chr, range(0x80, 0xC0)), "\u037e"]
)
pieces = st.sampled_from([
    "\\", "%", "&", ";", "&amp;", "&lt", "%41", "%25", "\\n", "\\x41", "\\\\u0041", "#39;", "'", '"', " ", "  ", "\n", "+",
    "_", "-", "é", "e\u0301", "ß", "İ", "\u0131", "ŉ", "ﬁ", "ﷺ", "가", "Ὰι", "ς", "n", "u", "x", "0", "41", "\U0001f600",
])  # fmt: skip
parts = st.text(characters, max_size=25) | st.lists(pieces, max_size=12).map("".join)
around = st.text(st.sampled_from("<>=~|#"), max_size=5)
# Not at the end what ends an escape for white space, which is no part of a value.
first = st.characters(categories=["L"]).filter(lambda letter: small(letter).isalnum())
last = first.filter(lambda letter: letter not in "abcdefnrtvABCDEFNRTV")
secrets = st.builds("{}{}{}".format, first, parts, last)


class TestTexts:
    @given(secrets, st.lists(st.sampled_from(WAYS), max_size=3), around, around)
    @example("Ada O'Hara", [quote_plus], "", "")
    @example("é" * 9, [normalized("NFD"), quote, inside(json.dumps)], "", "")
    def test_nothing_of_a_value_is_left_whatever_it_went_through(self, secret, ways, before, after):
        assume(secret not in {"null", "true", "false"})
        # Of characters beyond, ``ascii`` writes a U that is no u.
        assume(str.lower not in ways or max(secret) < "\U00010000")
        written = secret
        for way in ways:
            written = way(written)
        text = hiding(secret)(before + written + after)
        assert MARK in text
        assert not [character for character in text.replace(MARK, "") if character.isalnum()]

    @pytest.mark.parametrize("name", NAMES)
    def test_it_is_hidden_in_what_clients_raise(self, name):
        with socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unheard.getsockname()[1]}/people/{quote(name)}"
            asked = {"name": name, "b": "1"}
            session = requests.Session()
            session.trust_env = False
            refused = requests.Response()
            refused.status_code, refused.reason = 404, name
            refused.url = requests.Request("GET", url, params=asked).prepare().url
            manager = urllib3.PoolManager()
            ways = [
                (httpx.HTTPStatusError, httpx.Response(404, request=httpx.Request("GET", url, params=asked)).raise_for_status),
                (requests.HTTPError, refused.raise_for_status),
                (requests.ConnectionError, lambda: session.get(url, params=asked)),
                (urllib3.exceptions.MaxRetryError, lambda: manager.request("GET", url, fields=asked, retries=0)),
            ]  # fmt: skip
            hide = hiding(name)
            for kind, way in ways:
                with pytest.raises(kind) as raised:
                    way()
                told = str(raised.value)
                assert quote(name)[:8] in told or quote_plus(name)[:8] in told
                text = hide(told)
                assert text.count(MARK) == 2 + (kind is requests.HTTPError)
                for part in {name, quote(name), quote_plus(name), html.escape(name)}:
                    assert not [at for at in range(len(part) - 5) if part[at : at + 6] in text]

    @pytest.mark.parametrize(
        ("secret", "text"),
        [
            ("Ada Love", "Ada+Love"), ("Ada Love", "ADA_LOVE"), ("Ada Love", "Ada \t\n Love"), ("O'Hara", "O&#39;Hara"), ("O'Hara", "O&amp;#x27;Hara"),
            ("O'Hara", "O%25252527Hara"), ("Zoë", "Zoe\u0308"), ("Zoe\u0308", "ZOË"), ("a b", "a+b"), ("a b", "a%20b"), ("Straße 4", "STRASSE 4"), ("ﬁsh", "fish"),
            ("2024-01-02", "2024 01 02"), ("soft", "so\u00adft"), ("İpek", "ipek"), ("<b>", "&lt;b&gt;"), ("C:\\new dir", "c:\\\\NEW DIR"),
            (1234567, "1%2C234%2C567"), (1234567.25, "1.23456725e%2B06"), ("A+", "A%2B"),
            ("Ada Love", "\U0001d400da Love"), ("abcdf", "abcdﬁ"), ("Ã© Ã© x", r"\xc3\xa9 \xc3\xa9 x"), ("ab\U0001f600cd", r"ab\ud83d\ude00cd"),
        ],
    )  # fmt: skip
    def test_forms_that_differ_by_how_they_are_written(self, secret, text):
        assert hiding(secret)(f"<{text}>") == f"<{MARK}>"

    def test_places_within_a_run_of_escapes_are_those_of_their_characters(self):
        text = r"\ud83d\ude00\u00e9\u00e8\u00ea\u00eb\u0153"
        assert hiding("éèêëœ")(text) == rf"\ud83d\ude00{MARK}"

    def test_what_looks_like_an_escape_is_taken_as_it_is_written_too(self):
        assert hiding("name of")(r"C:\name of") == rf"C:\{MARK}"
        assert hiding("41 Main St")("%41 Main St") == f"%{MARK}"
        assert readings(r"\ud800\u0041")[-1].text == "\ud800A"

    @pytest.mark.parametrize(
        ("secret", "text"),
        [
            ("4", "feature_4 x4 44"), ("A+", "a grade A is A-"), ("Rome", "error message"), ("____", "a_b c d"),
            ("a b", "ab a.b aa b"), (" ", "a b"), ("Ada Love", "Adalove"),
        ],
    )  # fmt: skip
    def test_what_is_another_text_stays(self, secret, text):
        assert hiding(secret)(text) == text

    @given(st.text(st.characters(codec="utf-8")), st.data())
    def test_places_are_those_of_the_text(self, text, data):
        made = readings(text)[-1]
        for form in (made, without_case(made), without_gaps(without_case(made))):
            size = len(form.text)
            if size:
                start = data.draw(st.integers(0, size - 1))
                end = data.draw(st.integers(start + 1, size))
                first, last = form.place(start, end)
                assert 0 <= first < last <= len(text)
                assert form.place(0, end) == (form.place(0, 1)[0], last)
        plain = without_gaps(without_case(whole(text)))
        assert [plain.place(at, at + 1) for at in range(len(plain.text))] == sorted(
            plain.place(at, at + 1) for at in range(len(plain.text))
        )

    @given(
        st.text(
            st.characters(codec="utf-8", exclude_characters="\\%&" + bytes(range(128, 256)).decode("latin-1"))
        )
    )
    def test_what_was_escaped_is_meant_as_before(self, text):
        for escape in (*ESCAPES[:2], *ESCAPES[3:]):
            assert readings(escape(text))[-1].text == text
            assert readings(escape(escape(text)))[-1].text == text

    def test_letters_are_the_same_in_every_case_and_composition(self):
        for character in map(chr, [*range(0xD800), *range(0xE000, 0x30000)]):
            forms = {character.upper(), character.lower(), character.title(), character.casefold()}
            forms |= {unicodedata.normalize("NFC", character), unicodedata.normalize("NFD", character)}
            assert {small(form) for form in forms} == {small(character)}

    def test_escapes_within_escapes_have_an_end(self):
        for text in ("%25" * 5000, "&amp;" * 5000, "&#37;25%5Cu0025c3&amp;lt;" * 200, "\\" * 20_000):
            assert len(readings(text)) <= spelling.MAX_LAYERS + 1


class TestWork:
    @pytest.fixture
    def looks(self, monkeypatch):
        """The places that are looked at closely."""
        looked = []
        real = words._Heads._reach
        monkeypatch.setattr(
            words._Heads,
            "_reach",
            lambda self, text, at, end: (looked.append(at), real(self, text, at, end))[1],
        )
        return looked

    def test_within_a_long_match_not_every_place_is_looked_at(self, looks, monkeypatch):
        monkeypatch.setattr(words, "MAX_STEPS", 10**6)
        assert list(words._Heads(["a" * 30_000 + "b"]).find("a" * 60_000)) == [(0, 60_000)]
        assert len(looks) < 300

    def test_how_far_a_word_goes_on_is_looked_for_only_if_it_goes_further(self, monkeypatch):
        looked = []
        real = words._Heads._in_common
        monkeypatch.setattr(
            words._Heads, "_in_common", lambda self, text, at: (looked.append(at), real(self, text, at))[1]
        )
        assert list(words._Heads(["a" * 40 + "b"]).find("-" + "a" * 40 + "-")) == [(1, 41)]
        assert looked == [1]

    @pytest.mark.parametrize("secret", ["a" * 63 + "b", "b" + "a" * 63])
    def test_after_many_places_the_rest_is_hidden(self, looks, secret):
        text = "the beginning-" + secret[5:25] * 500 + "-the end"
        found = sorted(words.Words([secret]).find(text))
        assert words.MAX_STEPS <= len(looks) <= 2 * words.MAX_STEPS
        hidden = sum(end - start for start, end in found)
        assert hidden >= 10_000 + len("-the end")  # of one that ends so: the beginning

    def test_many_short_words_are_hidden_to_the_end(self):
        text = "ab " * (words.MAX_STEPS + 5) + "the end"
        spans = list(words.ShortWords({"ab": False}).find(text, alone=True))
        assert len(spans) == words.MAX_STEPS + 1
        assert spans[-1][1] == len(text)

    def test_many_marks_in_a_row_are_taken_in_parts(self, monkeypatch):
        taken = []

        class Watched:
            combining, category = unicodedata.combining, unicodedata.category

            @staticmethod
            def normalize(form, text):
                taken.append(len(text))
                return unicodedata.normalize(form, text)

        monkeypatch.setattr(spelling, "unicodedata", Watched)
        assert small("a" + "\u0301\u0327" * 10_000) == "a"
        assert max(taken) < 1000

    @given(
        st.lists(st.text(st.sampled_from("abc"), min_size=9, max_size=70), min_size=1, max_size=6), st.data()
    )
    def test_values_that_overlap_are_hidden_to_their_ends(self, given_words, data):
        text = "-"
        for word in data.draw(st.lists(st.sampled_from(given_words), max_size=4)):
            text += word[data.draw(st.integers(0, 3)) :] + data.draw(st.sampled_from(["", "-"]))
        spans = list(words.Words(given_words).find(text))
        for word in given_words:
            for length in range(words.HEAD, len(word) + 1):
                at = text.find(word[:length])
                while at >= 0:
                    assert set(range(at, at + length)) <= {place for span in spans for place in range(*span)}
                    at = text.find(word[:length], at + 1)
