"""Bodies cut out of the stream, in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.errors import HeadersTooLarge, MalformedRequest
from mlserver.server.framing import Chunked, Sized, body_of, split_target

pieces = st.lists(st.binary(max_size=20), max_size=10)
extensions = st.sampled_from([b"", b";", b";name", b' ; name="a;b"', b"\t;\xff"])


def fed(body, stream, cuts):
    """What a body makes of a stream that comes in pieces: its bytes, and what is behind it."""
    got, rest, start = b"", b"", 0
    for end in [*sorted(cut for cut in set(cuts) if 0 < cut < len(stream)), len(stream)]:
        part, rest = body.take(rest + stream[start:end])
        got, start = got + part, end
        if body.done or body.fault:
            return got, rest + stream[end:]
    return got, rest


cuts = st.lists(st.integers(1, 300), max_size=10)


@given(data=st.binary(min_size=1, max_size=100), behind=st.binary(max_size=50), cuts=cuts)
def test_a_sized_body_ends_where_its_length_says(data, behind, cuts):
    body = Sized(len(data))
    assert fed(body, data + behind, cuts) == (data, behind)
    assert body.done


@given(data=st.binary(max_size=20), missing=st.integers(1, 10), cuts=cuts)
def test_a_sized_body_that_is_not_complete_is_not_done(data, missing, cuts):
    body = Sized(len(data) + missing)
    assert fed(body, data, cuts) == (data, b"")
    assert not body.done


@given(
    chunks=st.lists(st.tuples(st.binary(min_size=1, max_size=300), extensions, st.booleans()), max_size=5),
    last=extensions,
    trailers=st.lists(st.sampled_from([b"a:\r\n", b"X-Y: \tz\r\n", b"host: evil\r\n"]), max_size=3),
    behind=st.binary(max_size=50),
    cuts=cuts,
)
def test_a_chunked_body_is_the_data_of_its_chunks(chunks, last, trailers, behind, cuts):
    encoded = b"".join(
        (b"%X" if upper else b"0%x") % len(data) + extension + b"\r\n" + data + b"\r\n"
        for data, extension, upper in chunks
    )
    stream = encoded + b"0" + last + b"\r\n" + b"".join(trailers) + b"\r\n" + behind
    body = Chunked()
    assert fed(body, stream, cuts) == (b"".join(data for data, _, _ in chunks), behind)
    assert body.done
    assert body.fault is None


@given(
    stream=st.lists(
        st.sampled_from([b"1", b"a", b"0", b";", b" ", b"\r", b"\n", b"\r\n", b"x", b":", b"1\r\nz\r\n"])
    ).map(b"".join),
    cuts=cuts,
)
def test_whatever_comes_as_chunks_is_taken_alike_in_any_pieces(stream, cuts):
    whole, split = Chunked(max_line=10), Chunked(max_line=10)
    got, rest = fed(whole, stream, [])
    assert fed(split, stream, cuts)[0] == got
    assert (str(split.fault), split.done) == (str(whole.fault), whole.done)
    assert whole.fault or fed(Chunked(max_line=10), stream, cuts)[1] == rest


def test_what_came_before_a_fault_is_still_given():
    body = Chunked()
    assert body.take(b"3\r\nabc\r\nzz\r\n")[0] == b"abc"
    assert isinstance(body.fault, MalformedRequest)


@pytest.mark.parametrize("stream", [b"1;" + b"x" * 20, b"0\r\n" + b"a: b\r\n" * 4, b"1" * 30])
def test_what_is_not_data_is_limited(stream):
    body = Chunked(max_line=16)
    body.take(stream)
    assert isinstance(body.fault, HeadersTooLarge)


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/", ("/", b"/", b"")),
        (b"/a?b?c", ("/a", b"/a", b"b?c")),
        (b"/%41%2F%C3%A9?%41", ("/A/é", b"/%41%2F%C3%A9", b"%41")),
        (b"//host/path", ("//host/path", b"//host/path", b"")),
        (b"/100%", ("/100%", b"/100%", b"")),
        (b"/?%ff", ("/", b"/", b"%ff")),
    ],
)
def test_a_target_is_a_path_and_a_query(target, parts):
    assert split_target(target) == parts


@pytest.mark.parametrize("target", [b"", b"*", b"a", b"a:80", b"http://a/", b"/#", b"/?#", b"/%ff", b"/%C3"])
def test_any_other_target_is_malformed(target):
    with pytest.raises(MalformedRequest):
        split_target(target)


HOST = {b"host": b"a"}


def test_a_request_without_a_length_has_no_body():
    assert body_of(HOST, old=False) is None
    assert body_of({}, old=True) is None
    assert body_of({b"host": b"", b"content-length": b"0"}, old=False) is None


def test_a_body_is_delimited_by_its_length_or_by_chunks():
    assert isinstance(body_of(HOST | {b"content-length": b"007"}, old=True), Sized)
    assert isinstance(body_of(HOST | {b"transfer-encoding": b"CHUNKED"}, old=False), Chunked)
