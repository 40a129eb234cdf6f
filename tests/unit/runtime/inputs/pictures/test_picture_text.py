"""Pictures that come as text: every spelling of a data URL, bare base64, addresses; and texts, which stay texts."""

import base64
import contextlib
import io
import time
import urllib.parse

import pytest
from PIL import Image

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.files.formats import PICTURE_FORMATS
from internvl_edge.runtime.inputs.pictures.data_url import data_url, decoded_base64
from internvl_edge.runtime.inputs.pictures.picture_text import encoded_picture, picture_in_text


def encoded(kind: str) -> bytes:
    target = io.BytesIO()
    Image.effect_noise((24, 24), 90).convert("RGB").save(target, kind)
    return target.getvalue()


PNG = encoded("PNG")
B64 = base64.b64encode(PNG).decode()
URL_SAFE = base64.urlsafe_b64encode(PNG).decode()
LINES = "\r\n".join(B64[start : start + 76] for start in range(0, len(B64), 76))


@pytest.mark.parametrize(
    "text",
    [
        f"data:image/png;base64,{B64}",
        f"DATA:image/png;base64,{B64}",
        f"Data:IMAGE/PNG;BASE64,{B64}",
        f"data:image/png;Base64,{B64}",
        f"data:image/png;name=a.png;base64,{B64}",
        f"data:image/png;charset=utf-8;name=a%20b.png;base64,{B64}",
        f"data:image/png;base64;name=a.png,{B64}",
        f"data:image/png; base64,{B64}",
        f"data:image/png ;base64 ,{B64}",
        f"data: image/png;base64, {B64}",
        f"data:;base64,{B64}",
        f"data:image;base64,{B64}",
        f"data:application/octet-stream;base64,{B64}",
        f"data:image/jpeg;base64,{B64}",  # called by another format's name
        f"data:text/plain;base64,{B64}",
        f"data:image/png,{B64}",  # without saying that it is base64
        f"data:,{B64}",
        f"data:image%2Fpng;base64,{B64}",
        f" data:image/png;base64,{B64}",
        f"\n\tdata:image/png;base64,{B64}\n",
        f"\ufeffdata:image/png;base64,{B64}",
        f"data:image/png;base64,{URL_SAFE}",
        f"data:image/png;base64,{B64.rstrip('=')}",
        f"data:image/png;base64,{B64}==",
        f"data:image/png;base64,{LINES}",
        f"data:image/png;base64,{urllib.parse.quote(B64, safe='')}",
        f"data:image/png;base64,{B64}#fragment",
        f"data:image/png,{urllib.parse.quote_from_bytes(PNG)}",
        f"data:,{urllib.parse.quote_from_bytes(PNG)}",
        B64,
        URL_SAFE,
        LINES,
        B64.rstrip("="),
        f" {B64}\n",
        f"b'{B64}'",  # `str` of the bytes that Python's b64encode gives
        f'"{LINES}"',
        f"base64,{B64}",
        f"base64:{B64}",
        f"image/png;base64,{B64}",
        f"data:image/png;base64url,{URL_SAFE}",
    ],
)
def test_a_picture_is_found_however_it_is_written(text: str) -> None:
    assert picture_in_text(text) == PNG


@pytest.mark.parametrize("kind", [kind for kind in PICTURE_FORMATS if kind != "DIB"])
def test_inside_other_text_no_picture_is_taken_for_text(kind: str) -> None:
    content = base64.b64encode(encoded(kind)).decode()
    for text in (f'{{"b64_json": "{content}"}}', f"my image/png;base64,{content}", f"a cat {content}"):
        if kind not in ("BMP", "PPM", "JPEG2000"):  # whose base64 has few letters of its own
            with pytest.raises(InputError, match="has the base64 of a picture inside other text"):
                picture_in_text(text)


@pytest.mark.parametrize(
    "content",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
        b"%PDF-1.7 and pages of letters",
        b"8BPS\0\1" + bytes(40),
        b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + bytes(40),
    ],
)
def test_bare_base64_of_what_is_not_read_is_no_text(content: bytes) -> None:
    assert picture_in_text(base64.b64encode(content).decode()) == content


@pytest.mark.parametrize("kind", [kind for kind in PICTURE_FORMATS if kind != "DIB"])
def test_bare_base64_of_every_format_is_a_picture(kind: str) -> None:
    content = encoded(kind)
    assert picture_in_text(base64.b64encode(content).decode()) == content
    assert picture_in_text(base64.urlsafe_b64encode(content).decode()) == content


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data:image/png;base64,", "of no bytes"),
        ("data:,", "of no bytes"),
        ("data:image/png;base64", "without a comma"),
        ("data:image/png", "without a comma"),
        ("data:image/png;base64,!!!!", "no base64"),
        ("data:image/png;base64,AAAAA", "no base64"),
        ("data:image/png;base64,\ud800", "no base64"),
        ("data:text/plain,hello", "a data URL of text/plain, which is no picture"),
        ("data:TEXT/Plain;charset=utf-8;base64,aGVsbG8=", "a data URL of text/plain, which is no picture"),
        ("data:application/json,{}", "of application/json"),
        ("data:image/png," + "%20" * 300_000, "more than 262144 percent-encoded bytes; send it in base64"),
        ("http://example.com/a.png", r"is an address \(http://example.com/a.png\), and nothing is fetched here"),
        ("HTTPS://example.com/a", "is an address"),
        (" https://example.com/a.png?size=3#x ", "is an address"),
        ("s3://bucket/key", "is an address"),
        ("gs://bucket/key.jpg", "is an address"),
        ("file:///home/me/my%20cat.png", "is an address"),
        ("file:///home/me/my cat.png", "is an address"),
        ("blob:https://example.com/1b9d", "is an address"),
        ("custom://host/a.webp", "is an address"),
        (f'<img src="data:image/png;base64,{B64}">', "has a data URL inside other text"),
        (f"describe ![x](data:image/png;base64,{B64})", "has a data URL inside other text"),
        ("data:text/html;utf8,<p>", "a data URL of text/html"),
        (f"data:image/png;base64;{B64}", "without a comma"),
        (urllib.parse.quote(f"data:image/png;base64,{B64}", safe=""), "has the base64 of a picture inside other text"),
        (f"{B64[:200]} and so on!", "begins as the base64 of a picture and is none"),
    ],
)
def test_what_means_a_picture_and_has_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        picture_in_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red kite",
        "data",
        "data:",
        "data: the new oil, says the paper",
        "data: input/output, and more",
        "data:science, the field",
        "Data; base64, and other words",
        "what base64, is",
        "base64, and what it is",
        "'quoted'",
        "b'",
        "'iVBORw0KGgo'",
        "image/png;base64,",
        "see https://example.com/a.png for more",
        "https:// is a prefix",
        "a/b://c",
        "/working/directory/of/the/server/process",
        "Antidisestablishmentarianism",
        "0123456789abcdef0123456789abcdef",
        "iVBORw0KGgo",  # the first letters alone are no picture
        "a PNG begins with iVBORw0KGgo, a JPEG with /9j/, in base64",
        "the data:image/png;base64, prefix of a URL",
        "data: a;b, c",
        "see /9j/of/a/path/that/is/a/long/one.txt",
        "图片",
        "\ud800 is half of a pair",
        base64.b64encode(b"a text, and no picture at all").decode(),
    ],
)
def test_text_stays_text(text: str) -> None:
    assert picture_in_text(text) is None


def test_a_drawing_in_a_data_url_is_no_text() -> None:
    assert picture_in_text("data:image/svg+xml;utf8,<svg xmlns='x'/>") == b"<svg xmlns='x'/>"


def test_what_takes_pictures_takes_their_bytes_and_their_text() -> None:
    assert encoded_picture(PNG) is PNG
    assert encoded_picture(f"data:image/png;base64,{B64}".encode()) == PNG
    assert encoded_picture(B64.encode()) == PNG
    for content in (b"", b"junk", b"\xff\xfe", b"P3 1 1 255 0 0 0", "data:image/png,ü".encode()):
        assert encoded_picture(content) == content  # the decoder says what is wrong with it
    with pytest.raises(InputError, match="is an address"):
        encoded_picture(b"https://example.com/a.png")


def test_other_data_urls_are_read_too() -> None:
    url = data_url("data:text/plain;charset=utf-8,%C3%BC%2C")
    assert url is not None
    assert (url.media_type, url.content, url.encoded) == ("text/plain", "ü,".encode(), False)
    assert decoded_base64(b"+/8=") == decoded_base64(b"-_8") == b"\xfb\xff"
    assert decoded_base64(b"a") is None
    assert decoded_base64(b"") == b""


@pytest.mark.parametrize(
    "text",
    [
        "data:a/b" + ";" * 5000 + "\0",
        "data:a/b" + ";a" * 500_000,
        "data:a/b" + " " * 2_000_000 + "x",
        "data:a/b" + " ;" * 1_000_000 + "\0",
        "iVBORw0KG" * 200_000,
        "'iVBORw0KGgo" * 200_000,
        ("'iVBORw0KGgo" + "A" * 600) * 3000,
        "data:" * 200_000 + "base64",
        "data:;" * 100_000 + " " * 1_000_000 + "base64",
        "AAAA" + " " * 2_000_000 + "x",
        "A " * 1_000_000,
        "data:;base64," + "A" * 5_000_000 + "!",
        "data:" + "=" * 1_000_000 + ",",
        "https://" + "a" * 2_000_000 + " .png",
        "a" * 2_000_000 + "://x",
        "data:,%" + "%" * 1_000_000,
        "b'" + " " * 1_000_000 + "base64,AAAA" + "'" * 1_000_000,
        "a" * 1_000_000 + "/" + "b" * 1_000_000 + ";base64,",
    ],
    ids=range(18),
)
def test_no_text_takes_long_to_judge(text: str) -> None:
    began = time.process_time()
    with contextlib.suppress(InputError):
        picture_in_text(text)
        encoded_picture(text.encode())
    assert time.process_time() - began < 2
